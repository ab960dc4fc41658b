"""The command line of the training jobs: each flag is a field of the configuration, under a shorter name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.storage import absolute

#: flag → (dotted field, help). `{stage}` stands for every stage that runs.
FIELDS: dict[str, tuple[str, str]] = {
    "output_dir": ("output_dir", "where everything is left"),
    "seed": ("seed", "of data, initial weights and order"),
    "wandb_project": ("tracking.wandb_project", "Weights & Biases project (offline unless a key is set)"),
    "robot_data": ("data.robot_data", "robot-selection JSON file or folder: stage 3 trains and is measured on it, too"),
    "num_workers": ("cluster.num_workers", "training workers"),
    "mixed_precision": ("stages.{stage}.precision", "auto, bf16 or fp32, of every stage that runs"),
    "batch_size": ("stages.{stage}.batch_size", "global batch of every stage that runs"),
    "learning_rate": ("stages.{stage}.learning_rate", "peak rate of every stage that runs"),
    "gradient_accumulation": (
        "stages.{stage}.gradient_accumulation",
        "micro-batches per step, of every stage that runs",
    ),
    "save_steps": ("stages.{stage}.save_every", "steps between checkpoints, of every stage that runs"),
    "eval_steps": ("stages.{stage}.eval_every", "steps between validations, of every stage that runs"),
    "log_steps": ("stages.{stage}.log_every", "steps between logged losses, of every stage that runs"),
    "max_steps": ("stages.{stage}.max_steps", "optimizer steps per phase at most, of every stage that runs"),
    "stage1_epochs": ("stages.1.epochs", "epochs of stage 1"),
    "stage2_epochs": ("stages.2.epochs", "epochs of stage 2"),
    "stage3_robot_epochs": ("stages.3.epochs", "epochs of stage 3"),
    "teacher": ("teacher.model", "model folder that stage 2 is distilled from"),
}
#: Flags that only mean something together.
PHASE_FLAGS = ("stage4_phase1_epochs", "stage4_phase2_epochs")


@dataclass(frozen=True)
class Request:
    """A parsed command line: the configuration with every flag in it, and what is no field of it."""

    config: RunConfig
    stages: list[int]
    resume_from: str | None
    dry_run: bool


def parser(description: str, stages: bool | None = True) -> argparse.ArgumentParser:
    """The flags of a training job.

    Args:
        description: for `--help`.
        stages: `--stages 1,2,3,4`; False: `--stage N`; None: neither, it is stage 3.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--config", default="configs/laptop.yaml", help="YAML file of a RunConfig")
    if stages is None:
        made.set_defaults(stage=3)
    elif stages:
        made.add_argument(
            "--stages", default="1,2,3,4", help="stages to run, in order; stage 0 joins where the eyes are untrained"
        )
    else:
        made.add_argument("--stage", type=int, required=True, help="the stage to run: 0, 1, 2, 3 or 4")
    made.add_argument(
        "--resume_from", help="a checkpoint of the first stage, or a model (folder or checkpoint) to start from"
    )
    made.add_argument("--dry-run", action="store_true", help="print the resolved plan and do nothing")
    for flag, (_, text) in FIELDS.items():
        made.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=text)
    for flag in PHASE_FLAGS:
        phase = flag.split("_")[1]
        made.add_argument(f"--{flag}", type=int, default=argparse.SUPPRESS, help=f"epochs of stage 4, {phase}")
    made.add_argument(
        "overrides", nargs="*", metavar="field=value", help="any field, dotted: stages.3.learning_rate=1e-4"
    )
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> Request:
    """Read the command line and the configuration that it means.

    Raises:
        ConfigError: a flag or field that cannot be used.
    """
    given = made.parse_intermixed_args(arguments)
    stages = [given.stage] if "stage" in given else stage_numbers(given.stages)
    plain = load_config(given.config)
    config = load_config(given.config, [*overrides(vars(given), stages, plain), *given.overrides])
    resume = absolute(given.resume_from) if given.resume_from else None
    return Request(config, stages, resume, given.dry_run)


def stage_numbers(text: str) -> list[int]:
    """`"1,2"` → [1, 2].

    Raises:
        ConfigError: not numbers with commas between them.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--stages: {text!r} is not a list of stage numbers like 1,2,3,4")
    return [int(part) for part in parts]


def overrides(flags: dict[str, object], stages: Sequence[int], plain: RunConfig) -> list[str]:
    """The dotted overrides that the given flags mean.

    Args:
        flags: flag → value, only those that were given.
        stages: the stages that run.
        plain: the configuration without them, for what must stay consistent.
    """
    running = [n for n in ([0, *stages] if 1 in stages else stages) if str(n) in plain.stages]
    found = []
    for flag, (field, _) in FIELDS.items():
        if flag not in flags:
            continue
        targets = [field.format(stage=n) for n in running] if "{stage}" in field else [field]
        found += [f"{target}={flags[flag]}" for target in targets]
    if any(flag in flags for flag in PHASE_FLAGS) and "4" in plain.stages:
        stage = plain.stage(4)
        epochs = [int(str(flags.get(flag, stage.epochs_of(i, 2)))) for i, flag in enumerate(PHASE_FLAGS)]
        found += [f"stages.4.phase_epochs={epochs}", f"stages.4.epochs={sum(epochs)}"]
    return found
