"""Search spaces: read, checked against the configuration, and turned into trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ember_platform.config import ConfigError
from ember_platform.tuning.space import Parameter, apply, load_sweep, look_up, overrides
from tests.platform.tuning.samples import base, sweep

ROOT = Path(__file__).resolve().parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    config = folder / "base.yaml"
    config.write_text(yaml.safe_dump(base(folder).model_dump(mode="json")))
    path.write_text(text.replace("CONFIG", str(config)))
    return path


HEAD = "stage: 3\nconfig: CONFIG\nobjectives: [{metric: first_choice, mode: max}]\nspace:\n"


@pytest.mark.parametrize("name", ["stage3", "stage4"])
def test_the_spaces_that_come_with_it_fit_the_laptop(name: str) -> None:
    found, config = load_sweep(ROOT / "tune" / f"{name}.yaml", [], [], str(ROOT / "configs" / "laptop.yaml"))
    first = found.defaults(config)
    assert apply(config, overrides(first, config)).stage(found.stage).batch_size == config.stage(found.stage).batch_size
    assert config.stage(found.stage).eval_every is None


FAULTS = [
    ("  stages.3.learnin_rate: {uniform: [0, 1], default: 0.5}\n", "space.yaml:5", "did you mean 'learning_rate'"),
    ("  stages.3.learning_rate: {log_uniform: [0, 1]}\n", "space.yaml:5", "must be above 0"),
    ("  stages.3.learning_rate: {uniform: [0.1, 0.01]}\n", "space.yaml:5", "is not below"),
    ("  stages.3.learning_rate: {uniform: [0.01, 0.1]}\n", "space.yaml:5", "its default, is 0.001"),
    ("  stages.3.learning_rate: {uniform: [0.0, 0.1]}\n", "space.yaml:5", "0.0 cannot be used"),
    ("  stages.3.learning_rate: {uniform: [0, 1], choice: [1]}\n", "space.yaml:5", "exactly one of"),
    ("  stages.3.optimizer: {choice: [adamw, sgd]}\n", "space.yaml:5", "'sgd' cannot be used"),
    ("  stages.3.optimizer: {choice: [adamw, adamw]}\n", "space.yaml:5", "all different"),
    ("  stages.3.epochs: {integer: [1, 8]}\n", "space.yaml:5", "the sweep's budget"),
    ("  data.image_size: {choice: [64, 128]}\n", "space.yaml:5", "trials share data"),
    ("  stages.2.learning_rate: {uniform: [0.1, 1]}\n", "space.yaml:5", "cannot be swept"),
    (
        "  stages.3.weight_decay: {uniform: [0, 1], when: {stages.3.optimizer: [muon]}}\n",
        "space.yaml:5",
        "no parameter above",
    ),
    ("  stages.3.batch_size: {coice: [8, 16]}\n", "space.yaml:5", "did you mean 'choice'"),
]


@pytest.mark.parametrize(("line", "where", "what"), FAULTS)
def test_a_fault_names_file_line_and_field(line: str, where: str, what: str, tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + line)
    with pytest.raises(ConfigError) as caught:
        load_sweep(path)
    assert where in str(caught.value)
    assert "space.stages" in str(caught.value) or "space.data" in str(caught.value)
    assert what in str(caught.value)


def test_a_grace_beyond_the_training_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "scheduler: {grace: 9}\n" + HEAD + "  stages.3.warmup_ratio: {uniform: [0, 1]}\n")
    with pytest.raises(ConfigError, match=r"space\.yaml:1: scheduler\.grace: 9 epochs"):
        load_sweep(path)


def test_trials_keep_the_model_that_is_best_by_the_first_objective(tmp_path: Path) -> None:
    line = "  stages.3.warmup_ratio: {uniform: [0, 1]}\n"
    assert load_sweep(write(tmp_path, HEAD + line))[1].stage(3).best is None  # the stage's own metric is meant
    loss = HEAD.replace("first_choice, mode: max", "team_loss, mode: min")
    assert load_sweep(write(tmp_path, loss + line))[1].stage(3).best == "team_loss"
    # What no validation tells cannot: the base configuration's metric does.
    speed = HEAD.replace("first_choice, mode: max", "latency_ms, mode: min")
    assert load_sweep(write(tmp_path, speed + line))[1].stage(3).best is None
    assert load_sweep(tmp_path / "space.yaml", [], ["stages.3.best=team_exact"])[1].stage(3).best == "team_exact"
    assert load_sweep(write(tmp_path, HEAD + line), [], ["stages.3.best=team_exact"])[1].stage(3).best is None
    with pytest.raises(ConfigError, match=r"space.yaml:3: objectives.0.mode: team_loss is better when it is less"):
        load_sweep(write(tmp_path, loss.replace("min", "max") + line))
    with pytest.raises(ConfigError, match=r"stages.3.best: cannot be swept"):
        load_sweep(write(tmp_path, HEAD + "  stages.3.best: {choice: [first_choice, team_loss]}\n"))


def test_the_learning_rate_begins_anew_where_trials_are_compared(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "  stages.3.warmup_ratio: {uniform: [0, 1]}\n")
    assert load_sweep(path, ["epochs=8"])[1].stage(3).restarts == []
    assert load_sweep(path, ["epochs=8", "scheduler.restarts=true"])[1].stage(3).restarts == [1, 2, 4]
    assert load_sweep(path, ["epochs=8", "scheduler.restarts=true", "scheduler.grace=3"])[1].stage(3).restarts == [3, 6]
    whole = ["epochs=8", "scheduler.restarts=true", "scheduler.method=none"]
    assert load_sweep(path, whole)[1].stage(3).restarts == []


def test_changes_reach_sweep_and_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "  stages.3.warmup_ratio: {uniform: [0, 1]}\n")
    found, config = load_sweep(path, ["trials=3", "epochs=2"], ["stages.3.batch_size=16"])
    assert (found.trials, config.stage(3).epochs, config.stage(3).batch_size) == (3, 2, 16)
    assert load_sweep(path, ["epochs=2"], ["stages.4.epochs=5"])[1].stage(4).epochs == 5


def test_elements_of_a_list_become_one_override() -> None:
    found = overrides({"stages.4.learning_rate.0": 0.5, "stages.4.learning_rate.1": 0.25}, base())
    assert found == ["stages.4.learning_rate=[0.5, 0.25]"]
    assert apply(base(), overrides({"stages.4.learning_rate.1": 0.25}, base())).stage(4).learning_rate == [1e-3, 0.25]


def test_defaults_are_the_configuration_s_and_the_file_s() -> None:
    found = sweep().defaults(base())
    assert found["stages.3.optimizer"] == "adamw"
    assert found["stages.3.learning_rate"] == 1e-3
    assert found["stages.3.weight_decay"] == 0.01
    other = sweep(
        space={**sweep().model_dump()["space"], "stages.3.optimizer": {"choice": ["adamw", "muon"], "default": "muon"}}
    )
    assert "stages.3.weight_decay" not in other.defaults(base())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_every_sample_is_a_configuration(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    found = sweep().sample(study.ask())
    for name, value in found.items():
        assert sweep().space[name].holds(value)
    assert ("stages.3.weight_decay" in found) == (found["stages.3.optimizer"] == "adamw")
    config = apply(base(), overrides(found, base()))
    for name, value in found.items():
        assert look_up(config.model_dump(mode="json"), name) == value


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        ({"integer": [1, 4]}, [1, 4, 2.0], [0, 5, 1.5, True, "2", None]),
        ({"log_uniform": [1e-3, 1.0]}, [1e-3, 1], [0, 2, None]),
        ({"choice": [None, [1, 2], "a"]}, [None, [1, 2], "a"], [[2, 1], "b", 1]),
    ],
)
def test_what_a_range_holds(values: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    parameter = Parameter.model_validate(values)
    assert all(parameter.holds(value) for value in inside)
    assert not any(parameter.holds(value) for value in outside)
