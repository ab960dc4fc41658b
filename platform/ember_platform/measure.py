"""A saved model against the test split of a run's data: what pipeline, `jobs/evaluate.py` and the gate call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.data.rows import Rows
from ember_platform.train.setup import device_of, load_model
from embervlm.data.schema import Record

#: Training records that the word and majority baselines learn from, at most.
BASELINE_RECORDS = 4000


def measure_stage(
    config: RunConfig,
    stage: int,
    model_dir: str | Path,
    split: str = "test",
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a model folder as a stage's product.

    Args:
        stage: 1 to 4.
        model_dir: a `from_pretrained` folder.
        split: "test" for what is reported, "validation" for what is tuned.
        output: where to write `metrics.json`; the tables go beside it (`tables.json`). Nothing is written where None.

    Returns:
        The content of `metrics.json`, and under "tables" the rows for figures.

    Raises:
        DataError: the data has no such records. OSError: no such model. MetricError: a figure is no number.
    """
    import torch

    from embervlm.evaluation import evaluate_stage, metrics_content, write_json

    started = time.monotonic()
    manifest = Manifest.load(config.data.dir)
    test = list(Rows(manifest.paths(stage, split)))
    train = _training_records(manifest, stage) if config.evaluation.baselines else None
    model, processor = load_model(model_dir)
    model.to(torch.device(device_of(config))).eval()
    found = evaluate_stage(
        model,
        processor,
        stage,
        test,
        train,
        batch_size=config.evaluation.batch_size,
        baselines=config.evaluation.baselines,
        samples=config.evaluation.samples,
        seed=config.seed,
    )
    content = metrics_content(
        stage,
        split,
        found["samples"],
        found["metrics"],
        found["baselines"],
        config.stage_digest(stage) if str(stage) in config.stages else config.digest(),
        manifest.stage_digest(stage),
    )
    found["tables"]["seconds"] = time.monotonic() - started
    if output is not None:
        write_json(output, content)
        write_json(Path(output).with_name(Path(output).name.replace("metrics", "tables")), found["tables"])
    return {**content, "tables": found["tables"]}


def _training_records(manifest: Manifest, stage: int) -> list[Record]:
    """Evenly spaced training records without their pictures, which no baseline reads."""
    rows = Rows(manifest.paths(stage, "train"))
    step = max(1, -(-len(rows) // BASELINE_RECORDS))
    return [record for i, record in enumerate(rows.texts()) if i % step == 0]
