"""Stage 3 on the public robot-selection files, cross-validated by task text, beside words alone on the same folds.

Each fold is a pipeline run of its own: the records of the other folds train and validate stage 3, the fold is the
test split. So every record is answered once, by a model that saw its task in no wording of upper and lower case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.mlflow_store import with_store
from ember_platform.train import folders
from ember_platform.train.pipeline import Outcome, run_pipeline
from ember_platform.train.plan import PlanError
from ember_platform.train.setup import split_records
from embervlm.evaluation.baselines import answer_figures, majority, tfidf

STAGE = 3
#: What model and baselines are compared by; all three are means over records, so a pooled figure is a weighted mean.
COMPARED = ("first_choice", "team_iou", "team_exact")
Train = Callable[..., Outcome]


@dataclass(frozen=True)
class Fold:
    """One fold's figures: the model's (all that its evaluation measured) and each baseline's."""

    fold: int
    samples: int
    metrics: dict[str, float]
    baselines: dict[str, float]
    data_digest: str


def check_folds(config: RunConfig) -> None:
    """The configuration is one of the robot-selection files alone.

    Raises:
        PlanError: no files are named, or other records would be trained on or tested with them.
    """
    if config.data.robot_data is None:
        raise PlanError("--robot_data: no robot-selection JSON file or folder is named, so there is nothing to fold")
    if config.data.sources:
        raise PlanError(
            f"data.sources: {', '.join(config.data.sources)} would be trained on and tested with robot_data; "
            "set data.sources=[] (as configs/robot_selection.yaml does)"
        )


def fold_config(config: RunConfig, fold: int) -> RunConfig:
    """The run of one fold: folders of its own below `output_dir`, one tracking store for all."""
    values = with_store(config).model_dump(mode="json")
    folder = storage.join(config.output_dir, f"fold{fold}")
    values |= {"name": f"{config.name}-fold{fold}", "output_dir": folder}
    values["data"] |= {"dir": storage.join(folder, "data"), "robot_fold": fold}
    return RunConfig.model_validate(values)


def run_folds(
    config: RunConfig, start: str | None = None, *, say: Callable[[str], None] = print, train: Train = run_pipeline
) -> dict[str, Any]:
    """Train and test every fold, and write `metrics.json` into `output_dir`. What is done is found done.

    Args:
        config: of all folds; `data.robot_folds` says how many.
        start: the model folder that every fold is fine-tuned from; None for an untrained model.
        say: takes lines of progress.
        train: trains and evaluates one fold, as `run_pipeline` does.

    Returns:
        The file's content: `metrics` and `baselines`, each the mean over the folds weighted by their records; their
        deviation over the folds (`metrics_std`, `baselines_std`); and under `folds` each fold's own.

    Raises:
        PlanError: see `check_folds`; or the evaluation of a fold failed. What training raises.
    """
    check_folds(config)
    folds = []
    for number in range(config.data.robot_folds):
        say(f"fold {number + 1} of {config.data.robot_folds}")
        run = fold_config(config, number)
        outcome = train(run, [STAGE], resume_from=start, say=say, register=False)
        if outcome.problems:
            raise PlanError(f"fold {number}: {outcome.problems[0]}; the same command goes on from there")
        folds.append(_measured(run, number, outcome.metrics[STAGE]))
    content = summary(folds)
    content |= {"stage": STAGE, "split": "test", "config_digest": config.digest(), "start": start}
    folders.write_json(storage.join(config.output_dir, folders.METRICS), content)
    return content


def _measured(config: RunConfig, number: int, found: dict[str, Any]) -> Fold:
    """A fold's figures, with the baselines, which learn from training and validation records: they tune nothing."""
    manifest = Manifest.load(config.data.dir)
    train, validation, test = (
        split_records(manifest, STAGE, split, None, config.seed) for split in ("train", "validation", "test")
    )
    known = [*train, *validation]
    baselines = {
        f"{name}_{figure}": value
        for name, answers in (("tfidf", tfidf(known, test)), ("majority", majority(known, test)))
        for figure, value in answer_figures(answers, test).items()
    }
    return Fold(number, found["samples"], found["metrics"], baselines, found["data_digest"])


def summary(folds: Sequence[Fold]) -> dict[str, Any]:
    """Means and deviations over folds of what every fold measured, and each fold's own figures."""
    weights = [fold.samples for fold in folds]
    content: dict[str, Any] = {"samples": sum(weights)}
    for group in ("metrics", "baselines"):
        rows = [getattr(fold, group) for fold in folds]
        common = [name for name in rows[0] if all(name in row for row in rows)]
        values = {name: [row[name] for row in rows] for name in common}
        content[group] = {name: float(np.average(v, weights=weights)) for name, v in values.items()}
        content[f"{group}_std"] = {name: float(np.std(v)) for name, v in values.items()}
    content["folds"] = [json.loads(json.dumps(vars(fold))) for fold in folds]
    return content


def table(content: dict[str, Any]) -> str:
    """The compared figures as lines: the model and the baselines, mean and deviation over folds, in percent."""
    rows = [["", *(name.replace("_", " ") for name in COMPARED)]]
    for who, group, prefix in (
        ("the model", "metrics", ""),
        ("TF-IDF + logistic regression", "baselines", "tfidf_"),
        ("majority", "baselines", "majority_"),
    ):
        mean, std = content[group], content[f"{group}_std"]
        rows.append([who, *(f"{100 * mean[prefix + n]:.1f} ± {100 * std[prefix + n]:.1f}" for n in COMPARED)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
