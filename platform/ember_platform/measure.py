"""A saved model against the test split of a run's data: what pipeline, `jobs/evaluate.py` and the gate call."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.data.rows import Rows
from embervlm.data.schema import Record

#: Training records that the word and majority baselines learn from, at most.
BASELINE_RECORDS = 4000


def measure_stage(
    config: RunConfig,
    stage: int,
    model_dir: str | Path,
    split: str = "test",
    output: str | Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Evaluate a model folder as a stage's product.

    Args:
        stage: 1 to 4.
        model_dir: a `from_pretrained` folder.
        split: "test" for what is reported, "validation" for what is tuned.
        output: where to write `metrics.json`; the tables go beside it (`tables.json`). Nothing is written where None.
        threads: compute threads, or those that torch has.

    Returns:
        The content of `metrics.json`, and under "tables" the rows for figures.

    Raises:
        DataError: the data has no such records. OSError: no such model.
    """
    import torch

    from embervlm import EmberVLM
    from embervlm.evaluation import evaluate_stage, write_metrics

    started = time.monotonic()
    manifest = Manifest.load(config.data.dir)
    test = list(Rows(manifest.paths(stage, split)))
    train = _training_records(manifest, stage) if config.evaluation.baselines else None
    if threads is not None:
        torch.set_num_threads(threads)
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    model = EmberVLM.from_pretrained(str(model_dir)).to(device).eval()  # type: ignore[arg-type]
    found = evaluate_stage(
        model,
        None,
        stage,
        test,
        train,
        batch_size=config.evaluation.batch_size,
        baselines=config.evaluation.baselines,
        samples=config.evaluation.samples,
        seed=config.seed,
    )
    content: dict[str, Any] = {
        "stage": stage,
        "split": split,
        "samples": found["samples"],
        "metrics": found["metrics"],
        "baselines": found["baselines"],
        "config_digest": config.digest(),
        "data_digest": manifest.stage_digest(stage),
    }
    found["tables"]["seconds"] = time.monotonic() - started
    if output is not None:
        write_metrics(output, **content)
        _write_tables(Path(output).with_name(Path(output).name.replace("metrics", "tables")), found["tables"])
    return {**content, "tables": found["tables"]}


def _training_records(manifest: Manifest, stage: int) -> list[Record]:
    """Evenly spaced training records without their pictures, which no baseline reads."""
    rows = Rows(manifest.paths(stage, "train"))
    step = max(1, -(-len(rows) // BASELINE_RECORDS))
    return [record for i, record in enumerate(rows.texts()) if i % step == 0]


def _write_tables(path: Path, tables: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(tables), encoding="utf-8")
    draft.replace(path)
