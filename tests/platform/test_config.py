"""The run configuration: what it takes, and how it says what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ember_platform.config import ConfigError, RunConfig, load_config

ROOT = Path(__file__).parents[2]
LAPTOP = ROOT / "configs" / "laptop.yaml"


def test_full_scale_values_are_those_of_the_documentation() -> None:
    config = load_config(ROOT / "configs" / "training_stages.yaml")
    stages = [config.stage(n) for n in (1, 2, 3, 4)]
    assert [s.epochs for s in stages] == [3, 5, 20, 10]
    assert [s.batch_size for s in stages] == [128, 64, 32, 32]
    assert [s.learning_rate for s in stages] == [2e-4, 2e-4, 1e-4, [1e-4, 5e-5]]
    assert [config.data.counts[f"stage{n}"].train for n in (1, 2, 3, 4)] == [330_000, 300_000, 1_000, 50_000]


def test_overrides_are_yaml_with_plain_exponents() -> None:
    config = load_config(LAPTOP, ["stages.3.learning_rate=1e-4", "stages.1.early_stop.patience=2", "data.robot_data=x"])
    assert config.stage(3).learning_rate == 1e-4
    assert config.stage(1).early_stop is not None
    assert Path(config.data.robot_data or "").is_absolute()
    assert config.sources == ["emberworld", "robot_selection"]
    words = load_config(LAPTOP, ["data.feature_cache=on", "cluster.use_gpu=false"])
    assert (words.data.feature_cache, words.cluster.use_gpu) == ("on", False)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.3.learning_rat=1", "stages.3.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("stages.3.learning_rate=fast", "stages.3.learning_rate: "),
        ("stages.3.pretrained_rate=2", "stages.3.pretrained_rate: "),
        ("stages.3.learning_rate=-1", "stages.3.learning_rate: must be above 0"),
        ("stages.7.epochs=1", "stages.7: "),
        ("stages.3.batch_size=31", "stages.3.batch_size: 31 does not divide by cluster.num_workers"),
        ("stages.3.zero_stage=7", "DeepSpeed ZeRO stage: 0, 1, 2 or 3"),
        (
            "stages.3={optimizer: muon, zero_stage: 2, epochs: 1, batch_size: 32, learning_rate: 0.1}",
            "which zero_stage 2 takes",
        ),
        ("stages.3.phase_epochs=[1,2]", "stages.3.phase_epochs: only stage 4 has phases"),
        ("stages.4.learning_rate=[1,2,3]", "stages.4.learning_rate: stage 4 has 2 phase(s)"),
        ("stages.1.mixing={coco: 1}", "stages.1.mixing: 'coco' is no source of this run"),
        ("stages.1.mixing={emberworld: 0}", "stages.1.mixing: every source has weight 0"),
        ("data.counts.stage3.tran=1", "data.counts.stage3.tran: unknown key; did you mean 'train'?"),
        ("data.counts=null", "data.counts: "),
        ("data.sources=[]", "data.sources: empty, and neither data.datasets nor data.robot_data is set"),
        ("data.image_size=100", "data.image_size: "),
        ("data.robot_fold=5", "data.robot_fold: 5 is no fold of 5"),
        ("data.bare=0.5", "data.bare: 0.5 of the pictures are photographs, and data.photographs is 0"),
        ("trackin.experiment=a", "trackin: unknown key; did you mean 'tracking'?"),
        ("seed.a=3", "seed holds 0, which has no fields"),
        ("seed", "expected dotted.key=value"),
        ("name=[", "is not a YAML value"),
        ("cluster.threads_per_worker=0", "cluster.threads_per_worker: a worker needs at least one thread"),
    ],
)
def test_a_fault_names_the_key_the_place_and_what_is_allowed(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(LAPTOP, [override])
    assert said in str(error.value)
    assert f"override {override!r}" in str(error.value)


def test_a_fault_in_the_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\ndata:\n  image_size: 128\n  image_sise: 64\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:4: data\.image_sise: unknown key; did you mean 'image_size'"):
        load_config(path)
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: seed: given twice, first at .*run\.yaml:1"):
        load_config(path)
    path.write_text("seed: [1\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: not valid YAML"):
        load_config(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_every_field_is_described() -> None:
    def undescribed(model: type, seen: set[type]) -> list[str]:
        seen.add(model)
        found = [f"{model.__name__}.{n}" for n, f in model.model_fields.items() if not f.description]  # type: ignore[attr-defined]
        for field in model.model_fields.values():  # type: ignore[attr-defined]
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if hasattr(part, "model_fields") and part not in seen:
                    found += undescribed(part, seen)
        return found

    assert undescribed(RunConfig, set()) == []


def test_digests_change_with_what_matters_only() -> None:
    base = load_config(LAPTOP)
    assert base.digest() == load_config(LAPTOP).digest()
    assert base.digest() != load_config(LAPTOP, ["seed=1"]).digest()
    same = ("output_dir=elsewhere", "cluster.num_workers=1", "stages.3.keep=5", "stages.2.epochs=9")
    for override in (*same, "stages.3.pretrained_rate=1"):
        assert base.stage_digest(3) == load_config(LAPTOP, [override]).stage_digest(3), override
    for override in ("seed=1", "stages.3.epochs=9", "preset=embervlm-37m", "stages.3.best=team_loss"):
        assert base.stage_digest(3) != load_config(LAPTOP, [override]).stage_digest(3), override


def test_a_stage_that_is_not_configured() -> None:
    with pytest.raises(ConfigError, match=r"stages\.3: not in the configuration"):
        RunConfig().stage(3)
