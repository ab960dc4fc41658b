"""The best trial: its configuration as a file, its model as challenger, and the gate."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.tuning.ledger import BEST
from ember_platform.tuning.space import SweepConfig, apply, overrides
from ember_platform.tuning.trial import Setup

if TYPE_CHECKING:
    from ember_platform.tuning.run import SweepOutcome


def write_best(outcome: SweepOutcome, sweep: SweepConfig, base: RunConfig, name: str) -> str:
    """Write the winner's configuration as `jobs/train_stage.py --config` takes it; its path."""
    best = outcome.best
    assert best is not None
    config = apply(base, overrides(best.params, base))
    objective = sweep.objectives[0]
    swept = "".join(f"#   {key}: {value}\n" for key, value in best.params.items())
    head = (
        f"# Trial {best.name} of sweep {name}: the best {objective.metric} ({best.objective(objective):.4f}, "
        f"validation) of {len(outcome.records)} trials.\n# Swept:\n{swept}"
    )
    body = yaml.safe_dump(copy.deepcopy(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)
    path = storage.join(outcome.folder, BEST)
    storage.write_bytes(path, (head + body).encode())
    return path


def register_winner(outcome: SweepOutcome, sweep: SweepConfig, setup: Setup, name: str, say: Any) -> None:
    """Have the winner's model finished, measured on the test split, registered and put through the gate.

    The pipeline does it: to it the trial is a stage whose training is at its end. What it registers is then marked with
    the sweep and the trial that it comes from.
    """
    from ember_platform.mlflow_store import open_store
    from ember_platform.registry import stage_name
    from ember_platform.train.pipeline import run_pipeline

    best = outcome.best
    assert best is not None
    config = setup.config(best.number, best.params)
    parent = setup.parent or storage.join(config.output_dir, "begin")
    done = run_pipeline(config, [sweep.stage], resume_from=parent, say=say)
    outcome.problems += done.problems
    outcome.versions |= done.versions
    client = open_store(config)
    tags = {"sweep": name, "sweep_trial": best.name, "sweep_folder": outcome.folder}
    if best.run:
        tags["sweep_run"] = best.run
    for registered in (stage_name(config, sweep.stage), config.registry.prefix):
        for version in client.search_model_versions(f"name = '{registered}'"):
            if _of_trial(version, config, sweep.stage):
                for key, value in tags.items():
                    client.set_model_version_tag(registered, str(version.version), key, value)


def _of_trial(version: Any, config: RunConfig, stage: int) -> bool:
    """Whether a registered version is the one that the trial's pipeline made."""
    from ember_platform.train import folders

    done = folders.read_json(storage.join(folders.stage_dir(config.output_dir, stage), folders.DONE)) or {}
    if done.get("version") is None:
        return False
    reference = f"{config.registry.prefix}-stage{stage}/{done['version']}"
    return f"{version.name}/{version.version}" == reference or version.tags.get("registered_from") == reference
