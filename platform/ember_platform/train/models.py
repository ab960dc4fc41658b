"""What is done to a stage's model outside its training: made, finished, evaluated, asked. Runs in one actor."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ember_platform import figures, storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.train import folders, setup

#: Training pictures that the probes of the vision warm-up are fitted on, at most.
PROBE_RECORDS = 1000
QUESTION = "inspect the hull below the waterline"


class ModelDesk:
    """The process that holds models while no worker trains; one for a whole pipeline, so that imports are paid once."""

    def __init__(self, config: RunConfig, data_dir: str) -> None:
        import torch

        self.config = config
        self.data_dir = data_dir
        torch.set_num_threads(len(os.sched_getaffinity(0)))

    def begin(self, folder: str) -> str:
        """Write the untrained model and its processor to a folder, unless they are there; returns the folder."""
        if not storage.exists(storage.join(folder, "config.json")):
            model, processor = setup.new_model(self.config)
            self._save(model, processor, folder)
        return folder

    def finish(self, stage: int, best: str, final: str) -> dict[str, float]:
        """The best checkpoint's model, calibrated on validation records, as the stage's end product.

        Returns:
            What was found on the way (`Stage.finish`).
        """
        from embervlm.stages import get_stage

        definition, manifest = get_stage(stage), Manifest.load(self.data_dir)
        with self._loaded(best) as (model, processor):
            records = setup.split_records(manifest, stage, "validation", None, self.config.seed)
            module = definition.module(model)
            module.eval()
            training = []
            if definition.compared:
                training = setup.split_records(manifest, stage, "train", definition.compared, self.config.seed)
            found = definition.finish(module, processor, records, training)
            self._save(model, processor, final)
        return found

    def evaluate(self, stage: int, folder: str, keep: str | None = None) -> tuple[dict[str, Any], str]:
        """The content of metrics.json for a model on the test split, and the same as a table; `keep` takes the rows."""
        from ember_platform.measure import measure_stage
        from embervlm.evaluation import format_table

        with folders.fetched(folder) as local:
            content = measure_stage(self.config, stage, local)
        tables = content.pop("tables")
        if keep is not None:
            folders.write_json(keep, tables)
        return content, format_table(content["metrics"], content["baselines"])

    def probe(self, folder: str) -> dict[str, float]:
        """What linear probes read from a model's encoder: fitted on training pictures, measured on validation's."""
        from embervlm.evaluation.probes import probe_accuracies

        manifest, seed = Manifest.load(self.data_dir), self.config.seed
        fit = setup.split_records(manifest, 0, "train", PROBE_RECORDS, seed)
        score = setup.split_records(manifest, 0, "validation", PROBE_RECORDS, seed)
        with self._loaded(folder) as (model, processor):
            return probe_accuracies(model, processor, fit, score)

    def measure_figures(self, stage: int) -> dict[str, Any]:
        """What a stage's figures are drawn from; says what the stage gained."""
        return figures.measure(self.config, stage, self.data_dir, say=lambda line: None)

    def measure_across(self) -> None:
        """What the figures across stages are drawn from."""
        figures.measure_rest(self.config, self.data_dir)

    def draw(self, report: bool) -> list[str]:
        """Draw what is new and, at the end, write the reports; lines that say what was done."""
        return figures.draw(self.config, report)

    def ask(self, folder: str, stage: int) -> dict[str, Any]:
        """One worked answer: a test record's picture and task where there is one, and what the model says."""
        manifest = Manifest.load(self.data_dir)
        record = None
        if "stage3" in manifest.shards and manifest.rows(3, "test"):
            record = setup.split_records(manifest, 3, "test", 1, self.config.seed)[0]
        with self._loaded(folder) as (model, processor):
            model.processor = processor
            answer = model.select_robots(
                image=record.image if record else None,
                task=record.instruction if record else QUESTION,
                fleet=record.robots if record else None,
                top_k=3,
                reasoning=stage >= 4,
            )
        shown = {key: answer[key] for key in ("robots", "team", "plan", "reasoning") if key in answer}
        return {"task": record.instruction if record else QUESTION, "right": record.labels if record else None, **shown}

    @contextlib.contextmanager
    def _loaded(self, folder: str) -> Iterator[tuple[Any, Any]]:
        import torch

        with folders.fetched(folder) as local:
            model, processor = setup.load_model(local)
        model.to(torch.device(setup.device_of(self.config)))
        model.eval()
        yield model, processor

    def _save(self, model: Any, processor: Any, folder: str) -> None:
        with tempfile.TemporaryDirectory(prefix="embervlm-model-") as temporary:
            local = Path(temporary, "model")
            model.save_pretrained(local)
            processor.save_pretrained(local)
            folders.publish(local, folder)
