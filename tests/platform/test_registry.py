"""Registering, the gate, promotion and the way back, on one small database; and one whole model through it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ember_platform import registry as r
from ember_platform.config import GateConfig, RegistryConfig, RunConfig
from ember_platform.gate import passes_gate
from ember_platform.mlflow_store import open_store


def figures(first_choice: float, data: str = "d1", **more: float) -> dict[str, Any]:
    metrics = {"first_choice": first_choice, "ece": 0.03, **more}
    return {"stage": 4, "split": "test", "samples": 10, "metrics": metrics, "data_digest": data}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the module: its creation takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def config(output: Path, request: pytest.FixtureRequest) -> RunConfig:
    """A name of its own per test, in the shared database."""
    gate = GateConfig(metric="first_choice", at_most={"ece": 0.1, "infeasible_rate": 0.2}, at_least={})
    return RunConfig(output_dir=str(output), registry=RegistryConfig(prefix=request.node.name, gate=gate))


def saved(folder: Path, content: str) -> Path:
    """What the registry needs of a model folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"content": content}))
    return folder


def promote(config: RunConfig, folder: Path, first_choice: float, data: str = "d1", **options: Any) -> r.Promotion:
    content = figures(first_choice, data, infeasible_rate=0.1)
    r.register_stage(config, 4, saved(folder, folder.name), content, {"data_digest": data})
    r.register_final(config)
    return r.promote(config, **options)


def test_the_gate_names_every_condition() -> None:
    gate = GateConfig(metric="first_choice", min_gain=0.01, at_least={"team_iou": 0.5}, at_most={"ece": 0.1})
    good = {"first_choice": 0.9, "team_iou": 0.8, "ece": 0.05}
    assert all(c.passed for c in passes_gate(good, {"first_choice": 0.88}, gate))
    assert all(c.passed for c in passes_gate(good, None, gate)), "no champion to beat"
    assert [c.passed for c in passes_gate(good, {"first_choice": 0.895}, gate)] == [False, True, True]
    failed = passes_gate({"first_choice": 0.9, "ece": 0.2}, None, gate)
    assert [c.passed for c in failed] == [True, False, False]
    assert "team_iou was not measured" in failed[1].message
    assert "ece is 0.2000; at most 0.1 is asked" in failed[2].message
    assert not passes_gate({}, None, gate)[0].passed
    assert not passes_gate(good, {}, gate)[0].passed


def test_promotion_and_the_way_back(config: RunConfig, tmp_path: Path) -> None:
    name = config.registry.prefix
    first = promote(config, tmp_path / "a", 0.8)
    assert first.promoted
    assert first.version == 1
    with pytest.raises(r.RegistryError, match="is the first champion"):
        r.roll_back(config)
    worse = promote(config, tmp_path / "b", 0.7)
    assert not worse.promoted
    assert [c.name for c in worse.checks if not c.passed] == ["better first_choice"]
    client = open_store(config)
    assert r._alias(client, name, r.CHAMPION) == 1
    assert r._alias(client, name, r.CHALLENGER) == 2
    better = promote(config, tmp_path / "c", 0.9)
    assert (better.promoted, better.version) == (True, 3)
    assert r._alias(client, name, r.CHALLENGER) is None
    assert r.promote(config, 3).checks[0].message == "version 3 is the champion already"
    assert r.roll_back(config) == 1
    assert r._alias(client, name, r.CHAMPION) == 1


def test_figures_of_other_data_are_not_compared(config: RunConfig, tmp_path: Path) -> None:
    promote(config, tmp_path / "a", 0.8)
    blind = promote(config, tmp_path / "b", 0.9, data="d2")
    assert not blind.promoted
    assert "different test records" in blind.checks[0].message
    asked: list[Path] = []

    def remeasure(folder: Path) -> dict[str, Any]:
        asked.append(folder)
        return figures(0.85, "d2")

    assert r.promote(config, remeasure=remeasure).promoted
    assert json.loads((asked[0] / "config.json").read_text()) == {"content": "a"}, "the champion's own folder"


def test_a_version_carries_its_lineage_and_is_registered_once(config: RunConfig, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "m")
    lineage = {"parent": "x-stage2/7", "data_digest": "d1"}
    first = r.register_stage(config, 3, folder, figures(0.9), lineage)
    assert r.register_stage(config, 3, folder, figures(0.9), lineage) == first
    assert r.register_stage(config, 3, folder, figures(0.91), lineage) == first + 1, "other figures, another version"
    client = open_store(config)
    tags = client.get_model_version(r.stage_name(config, 3), str(first)).tags
    assert tags["parent"] == "x-stage2/7"
    assert tags["config_digest"] == config.digest()
    assert tags["model_digest"] == r.folder_digest(folder)
    assert tags["code_revision"]
    final = r.register_final(config, stage=3, version=first)
    assert r.register_final(config, stage=3, version=first) == final
    assert client.get_model_version(config.registry.prefix, str(final)).tags["registered_from"].endswith(f"/{first}")


def test_errors_say_what_to_do(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(r.RegistryError, match=r"it has no config\.json"):
        r.register_stage(config, 3, tmp_path, {}, {})
    with pytest.raises(r.RegistryError, match="no version at all"):
        r.register_final(config)
    with pytest.raises(r.RegistryError, match="no version has the alias challenger"):
        r.promote(config)
    with pytest.raises(r.RegistryError, match="no champion to roll back"):
        r.roll_back(config)
    with pytest.raises(r.RegistryError, match="has no alias 'champion'"):
        r.model_folder(config, f"models:/{config.registry.prefix}@champion")
    with pytest.raises(r.RegistryError, match="give a folder or models:/name@alias"):
        r.model_folder(config, str(tmp_path))
    r.register_stage(config, 4, saved(tmp_path / "a", "a"), figures(0.5), {})
    with pytest.raises(r.RegistryError, match="no version 9; there are: 1"):
        r.register_final(config, version=9)


def test_a_whole_model_answers_from_the_registry(config: RunConfig, tmp_path: Path) -> None:
    import pandas as pd
    from PIL import Image

    from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor, Fleet
    from embervlm.data.prompts import robot_text

    model_config = EmberVLMConfig.preset("embervlm-nano")
    processor = EmberVLMProcessor.build(model_config, [robot_text(robot) for robot in Fleet.of(None)] * 3)
    model = EmberVLM(model_config).eval()
    model.processor = processor
    folder = tmp_path / "final"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    r.register_stage(config, 1, folder, figures(0.9), {})
    content = figures(0.9, infeasible_rate=0.1)
    r.register_stage(config, 4, folder, content, {})
    r.register_final(config)
    assert r.promote(config).promoted

    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), "orange").save(buffer, "PNG")
    picture = tmp_path / "x.png"
    picture.write_bytes(buffer.getvalue())
    loaded = r.load(config)
    table = pd.DataFrame(
        {
            "task": ["look"] * 4,
            "image": [buffer.getvalue(), base64.b64encode(buffer.getvalue()).decode(), str(picture), None],
            "fleet": [None, None, "", json.dumps([{"name": "X", "capabilities": ["fly"]}])],
        }
    )
    found = loaded.predict(table).to_dict("records")
    expected = model.select_robots(str(picture), "look")
    for row in found[:3]:
        assert row["robot"] == expected["robots"][0]["robot"]
        assert row["confidence"] == pytest.approx(expected["robots"][0]["confidence"], abs=1e-5)
        assert row["team"] == expected["team"]
    assert found[3]["robot"] == "X"
    alone = loaded.predict(pd.DataFrame({"task": ["look"]}), params={"top_k": 2})
    assert len(alone["robots"][0]) == 2
    with pytest.raises(ValueError, match="image of row 0: 'nowhere!' is neither a file nor base64"):
        loaded.predict(pd.DataFrame({"task": ["look"], "image": ["nowhere!"]}))
    with pytest.raises(ValueError, match="fleet of row 0: not JSON"):
        loaded.predict(pd.DataFrame({"task": ["look"], "fleet": ["{"]}))
    text = r.load(config, f"models:/{r.stage_name(config, 1)}/1").predict(pd.DataFrame({"task": ["describe"]}))
    assert list(text.columns) == ["text"]
    here = r.model_folder(config, f"models:/{config.registry.prefix}@champion")
    assert r.folder_digest(here) == r.folder_digest(folder)
    assert not list(here.parents[1].rglob("*.pkl")), "no pickled code"
