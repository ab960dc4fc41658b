"""Every flag that is parsed is applied."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from ember_platform.config import ConfigError, RunConfig
from ember_platform.train import flags

VALUES: dict[str, str] = {
    "output_dir": "/tmp/somewhere",
    "seed": "77",
    "wandb_project": "a-project",
    "robot_data": "/tmp/robots.json",
    "num_workers": "1",
    "mixed_precision": "fp32",
    "batch_size": "24",
    "learning_rate": "3e-5",
    "gradient_accumulation": "4",
    "save_steps": "13",
    "eval_steps": "17",
    "log_steps": "19",
    "max_steps": "23",
    "stage1_epochs": "31",
    "stage2_epochs": "32",
    "stage3_robot_epochs": "33",
    "teacher": "/tmp/teacher",
}


def parse(root: Path, *arguments: str, stages: bool = True) -> flags.Request:
    config = str(root / "configs" / "laptop.yaml")
    return flags.parse(flags.parser("", stages), [*arguments, "--config", config])


def at(config: RunConfig, field: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in field.split("."):
        value = value[part]
    return value


def test_every_field_flag_has_a_case_here() -> None:
    made = flags.parser("")
    names = {action.dest for action in made._actions}
    others = {"help", "config", "stages", "resume_from", "dry_run", "overrides", *flags.PHASE_FLAGS}
    assert names - others == set(VALUES)


@pytest.mark.parametrize("flag", sorted(VALUES))
def test_every_flag_changes_its_field(root: Path, flag: str) -> None:
    plain = parse(root).config
    changed = parse(root, f"--{flag}", VALUES[flag]).config
    field = flags.FIELDS[flag][0]
    stages = (0, 1, 2, 3, 4) if "{stage}" in field else (0,)
    for stage in stages:
        dotted = field.format(stage=stage)
        wanted = VALUES[flag]
        found = at(changed, dotted)
        assert found == type(found)(wanted), dotted
        assert found != at(plain, dotted), dotted
    assert changed.digest() != plain.digest()


def test_stage_flags_leave_other_stages_alone(root: Path) -> None:
    plain, changed = parse(root).config, parse(root, "--stages", "3", "--learning_rate", "7e-6").config
    assert changed.stage(3).learning_rate == 7e-6
    assert changed.stage(2) == plain.stage(2)


def test_phase_epochs_keep_their_sum(root: Path) -> None:
    one = parse(root, "--stage4_phase1_epochs", "5").config.stage(4)
    assert one.phase_epochs == [5, parse(root).config.stage(4).epochs_of(1, 2)]
    assert one.epochs == sum(one.phase_epochs)
    both = parse(root, "--stage4_phase1_epochs", "2", "--stage4_phase2_epochs", "6").config.stage(4)
    assert (both.phase_epochs, both.epochs) == ([2, 6], 8)


def test_overrides_stages_and_the_rest(root: Path) -> None:
    request = parse(root, "--stages", "2,3", "--resume_from", "/x", "--dry-run", "stages.3.clip=0.25")
    assert request.stages == [2, 3]
    assert request.resume_from == "/x"
    assert request.dry_run
    assert request.config.stage(3).clip == 0.25
    assert parse(root, "--stage", "4", stages=False).stages == [4]


@pytest.mark.parametrize("text", ["", "one", "1;2", "1,x"])
def test_stages_that_are_none(root: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="--stages"):
        parse(root, "--stages", text)


def test_an_unknown_field_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.3\.learning_rat"):
        parse(root, "stages.3.learning_rat=1")


def test_an_unknown_flag_is_refused(root: Path) -> None:
    with pytest.raises(SystemExit):
        parse(root, "--learning_rates", "1")


def test_help_can_be_printed() -> None:
    assert isinstance(flags.parser("words"), argparse.ArgumentParser)
    assert "--robot_data" in flags.parser("words").format_help()
