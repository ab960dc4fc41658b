"""Offline distillation: a teacher reads stage 2's training records once, and what it says is stored beside them.

The taught shards form a data folder of their own, named after teacher, records and settings, so that another teacher
never mixes with this one and a second run finds them. Teacher and student are never in memory together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import FILE, Manifest, Shard
from ember_platform.train import folders
from ember_platform.train.plan import PlanError
from ember_platform.train.setup import device_of, load_model, threads_of
from embervlm.data.schema import Record, to_table

STAGE = 2
_BATCH = 32
_ANSWER_TOKENS = 48


def teach(config: RunConfig, manifest: Manifest, student: str, *, say: Callable[[str], None] = print) -> str:
    """Make stage 2's taught shards, or find them made.

    Args:
        config: names the teacher (an EmberVLM folder) and how much of its distribution is kept.
        manifest: of the prepared data.
        student: the model folder that will be taught; with an equal tokenizer the distributions are stored, with
            another one only the teacher's text.
        say: takes lines of progress.

    Returns:
        The data folder with the taught shards, for stage 2.

    Raises:
        PlanError: the teacher is no model folder.
    """
    import ray

    from ember_platform.data.rayed import ensure_ray, quiet
    from ember_platform.train.pipeline import content_digest

    teacher = str(config.teacher.model)
    if not storage.exists(storage.join(teacher, "config.json")):
        raise PlanError(f"teacher.model: {teacher} is no EmberVLM folder (no config.json)")
    digest = content_digest(teacher)
    same = tokenizer_digest(teacher) == tokenizer_digest(student)
    key = [digest, manifest.stage_digest(STAGE), config.teacher.top_k, same]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    target = storage.join(manifest.dir, f"taught-{name}")
    if storage.exists(storage.join(target, FILE)):
        say(f"teacher: {target} is complete")
        return target
    how = f"text and top {config.teacher.top_k} log-probabilities" if same else "text only: another tokenizer"
    say(f"teacher: {teacher} reads {manifest.rows(STAGE, 'train')} records ({how})")
    ensure_ray(config)
    quiet()
    workers = config.cluster.num_workers
    shards = manifest.select(STAGE, "train")
    dataset = ray.data.from_items([{"shard": i} for i in range(len(shards))], override_num_blocks=len(shards)).map(
        Teacher,  # type: ignore[arg-type]
        fn_constructor_args=(config, manifest, target, digest, same),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
        num_cpus=config.cluster.cpus_per_worker,
        num_gpus=1 if config.cluster.use_gpu else None,
    )
    done: dict[int, Shard] = {}
    for row in dataset.iter_rows():
        done[row["shard"]] = Shard(**json.loads(row["made"]))
        say(f"teacher: {len(done)}/{len(shards)} shards")
    taught = {"train": [done[i] for i in range(len(shards))]}
    for split in ("validation", "test"):
        taught[split] = manifest.select(STAGE, split)
        for shard in taught[split]:
            content = storage.read_bytes(storage.join(manifest.dir, shard.path))
            storage.write_bytes(storage.join(target, shard.path), content)
    generators = {**manifest.generators, "teacher": digest}
    replace(manifest, dir=target, generators=generators, shards={f"stage{STAGE}": taught}).save()
    return target


def tokenizer_digest(folder: str) -> str:
    """sha256 (hex) of a model folder's tokenizer: equal digests mean equal token ids."""
    with folders.fetched(folder) as local:
        file = local / "tokenizer.json"
        content = file.read_bytes() if file.is_file() else str(local).encode()
    return hashlib.sha256(content).hexdigest()


class Teacher:
    """Answers the records of a shard and writes them again with the answers; one per Ray Data actor."""

    def __init__(self, config: RunConfig, manifest: Manifest, target: str, digest: str, distributions: bool) -> None:
        import torch

        from embervlm.stages import get_stage

        torch.set_num_threads(threads_of(config, config.cluster.num_workers))
        self.config, self.manifest, self.target = config, manifest, target
        self.digest, self.distributions = digest, distributions
        with folders.fetched(str(config.teacher.model)) as local:
            self.model, self.processor = load_model(local)
        self.model.to(torch.device(device_of(config))).eval()
        self.model.processor = self.processor
        self.stage = get_stage(STAGE)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Teach one shard, or find it taught."""
        shard = self.manifest.select(STAGE, "train")[row["shard"]]
        path = storage.join(self.target, shard.path)
        if not storage.exists(path):
            with storage.open_input(storage.join(self.manifest.dir, shard.path)) as file:
                records = [Record.from_row(r) for r in pq.read_table(file).to_pylist()]
            taught: list[Record] = []
            for start in range(0, len(records), _BATCH):
                taught += self.answer(records[start : start + _BATCH])
            sink = pa.BufferOutputStream()
            pq.write_table(to_table(taught), sink)
            storage.write_bytes(path, sink.getvalue())
        content = storage.read_bytes(path)
        made = replace(shard, sha256=storage.digest_bytes(content), bytes=len(content), spec=self.digest)
        return {"shard": row["shard"], "made": json.dumps(made.__dict__)}

    def answer(self, records: list[Record]) -> list[Record]:
        """The records with the teacher's own answer, and its distribution at each token of the data's answer."""
        requests = [{"image": r.image, "prompt": r.instruction} for r in records]
        texts = self.model.generate_texts(requests, max_new_tokens=_ANSWER_TOKENS, batch_size=_BATCH)
        spoken = self.distribution(records) if self.distributions else [(None, None)] * len(records)
        return [
            replace(r, teacher_text=text, teacher_token_ids=ids, teacher_logprobs=logprobs, teacher_digest=self.digest)
            for r, text, (ids, logprobs) in zip(records, texts, spoken, strict=True)
        ]

    def distribution(self, records: list[Record]) -> list[tuple[list[list[int]], list[list[float]]]]:
        """Per record: ids and log-probabilities (temperature 1) of the top k at each of its answer's tokens."""
        import torch

        from embervlm.stages.base import to_device

        batch = to_device(self.stage.collate(self.processor, records, None), self.model.device)
        batch = {name: value for name, value in batch.items() if not name.startswith("teacher")}
        with torch.inference_mode():
            hidden = self.model(**batch).text_hidden
            target = batch["labels"][:, 1:] >= 0
            logits = self.model.language.logits(hidden[:, :-1][target]).float()
            values, ids = logits.log_softmax(-1).topk(min(self.config.teacher.top_k, logits.shape[-1]))
        counts = target.sum(1).tolist()
        parts = zip(ids.cpu().split(counts), values.cpu().split(counts), strict=True)
        return [(one.tolist(), two.tolist()) for one, two in parts]
