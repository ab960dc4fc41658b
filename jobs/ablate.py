"""Train robot selection again without one part at a time, and keep the comparison for the run's ablation figure.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/ablate.py --config configs/laptop.yaml

Every arm is a real, short training of stage 3 from the run's stage-2 model (`--steps` optimizer steps, the same data in
the same order), measured on the test split. What stands in a part's place:

    Pretrained LLM    the decoder with random weights
    Fusion Adapter    the adapter with random weights
    QK Norm           the same decoder without norms of queries and keys (the Llama architecture); of a Qwen3 only
    Reasoning Module  no loss on chains and reasons
    RepViT            the encoder with random weights, frozen

`--dry-run` says what would be trained, and how long that takes going by the run's own stage 3. A run whose
configuration has `figures.ablation_steps` does the same at its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ember_platform import energy, figures, studies
from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.manifest import DataError
from ember_platform.train.folders import DONE, read_json, stage_dir
from ember_platform.train.loop import TrainingError
from ember_platform.train.plan import PlanError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where every arm was trained, 1 where it says why not."""
    parser = argparse.ArgumentParser(description="Train robot selection without one part at a time.")
    parser.add_argument("--config", required=True, help="the run's YAML configuration")
    parser.add_argument("--steps", type=int, help="optimizer steps of each training (default: figures.ablation_steps)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and how long that takes")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, such as output_dir=outputs")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        steps = options.steps or config.figures.ablation_steps
        if not steps:
            raise PlanError("--steps: how many optimizer steps? figures.ablation_steps says none")
        if options.dry_run:
            print("\n".join(_planned(config, steps)))
            return 0
        from ember_platform.data.rayed import ensure_ray

        ensure_ray(config)
        studies.ablation(config, steps)
        print("\n".join(figures.draw(config, report=False)))
    except (ConfigError, DataError, PlanError, TrainingError, figures.FiguresError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _planned(config: RunConfig, steps: int) -> list[str]:
    """What would be trained, in lines for a terminal.

    Raises:
        PlanError: the run has no stage-2 model.
    """
    parent = studies.final_of(config, studies.STAGE - 1)
    names, digest = studies.arms(config), studies.ablation_digest(config, steps)
    lines, left = [f"{len(names)} trainings of stage {studies.STAGE}, {steps} steps each, from {parent}"], 0
    for name in names:
        _, overrides, instead = studies.ARMS[name]
        trained = studies.arm_score(config, name, digest) is not None
        left += not trained
        said = [text for text in (instead, *overrides, "trained before" if trained else "") if text]
        lines.append(f"  {name}" + (f": {', '.join(said)}" if said else ""))
    seconds = _seconds(config, steps)
    if seconds is None:
        return [*lines, f"no estimate of the time: the run's own stage {studies.STAGE} is not done"]
    each = f"going by the run's own stage {studies.STAGE}, {seconds:.0f} s each"
    return [*lines, f"about {left * seconds / 60:.0f} minutes for the {left} that are not trained ({each})"]


def _seconds(config: RunConfig, steps: int) -> float | None:
    """What an arm takes going by the run's own stage 3: its start, so many of its steps, its evaluation.

    High by the baselines, which an arm is not measured beside, and by the starts after the first. None where the run
    has no stage 3.
    """
    folder = Path(stage_dir(config.output_dir, studies.STAGE))
    done = read_json(str(folder / DONE))
    if done is None:
        return None
    step = float(np.median(figures.history_of(folder)["seconds"]))
    evaluation = sum(row["seconds"] for row in energy.read(str(folder)) if row["part"] == "evaluation")
    return float(sum(done["startup_seconds"].values()) + steps * step + evaluation)


if __name__ == "__main__":
    sys.exit(main())
