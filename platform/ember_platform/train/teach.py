"""Offline distillation: a teacher reads stage 2's training records once, and what it says is stored beside them.

The taught shards form a data folder of their own, named after teacher, records and settings, so that another teacher
never mixes with this one and a second run finds them. Teacher and student are never in memory together.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import FILE, Manifest, Shard
from ember_platform.train import folders
from ember_platform.train.plan import PlanError, check_teacher
from ember_platform.train.setup import device_of, load_model, threads_of
from embervlm.data.schema import Record, to_table

STAGE = 2
_BATCH = 32
_ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Lesson:
    """What a teacher is asked for: the manifest's training records, taught, in the folder `target`.

    `digest` is the teacher's; `distributions` says whether its token ids mean the same to the student.
    """

    config: RunConfig
    manifest: Manifest
    target: str
    digest: str
    distributions: bool


#: A runner has the shards of a lesson taught (`Teacher`) and gives what each call returned, in any order.
Runner = Callable[[Lesson, int], Iterable[dict[str, Any]]]


def teach(
    config: RunConfig,
    manifest: Manifest,
    student: str,
    *,
    runner: Runner | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Make stage 2's taught shards, or find them made.

    Args:
        config: names the teacher (an EmberVLM folder) and how much of its distribution is kept.
        manifest: of the prepared data.
        student: the model folder that will be taught; with an equal tokenizer the distributions are stored beside
            the teacher's text, with another one the text alone.
        runner: how shards are taught; the default is a Ray Data job on the running cluster.
        say: takes lines of progress.

    Returns:
        The data folder with the taught shards, for stage 2.

    Raises:
        PlanError: teacher or student is no model folder.
    """
    from ember_platform.train.pipeline import content_digest

    teacher = str(config.teacher.model)
    check_teacher(teacher)
    if not storage.exists(storage.join(student, "config.json")):
        raise PlanError(f"--student: {student} is no EmberVLM folder (no config.json); train stage 1 first")
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
    started = time.monotonic()
    shards = manifest.select(STAGE, "train")
    done: dict[int, Shard] = {}
    for row in (runner or on_ray)(Lesson(config, manifest, target, digest, same), len(shards)):
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
    say(f"teacher: done in {time.monotonic() - started:.0f} s")
    return target


def on_ray(lesson: Lesson, shards: int) -> Iterator[dict[str, Any]]:
    """Teach shards in Ray Data actors, one per training worker of the configuration."""
    import ray

    from ember_platform.data.rayed import ensure_ray, quiet

    ensure_ray(lesson.config)
    quiet()
    cluster = lesson.config.cluster
    dataset = ray.data.from_items([{"shard": i} for i in range(shards)], override_num_blocks=shards).map(
        Teacher,  # type: ignore[arg-type]
        fn_constructor_args=(lesson,),
        compute=ray.data.ActorPoolStrategy(size=min(cluster.num_workers, shards)),
        num_cpus=cluster.cpus_per_worker,
        num_gpus=1 if cluster.use_gpu else None,
    )
    yield from dataset.iter_rows()


def tokenizer_digest(folder: str) -> str:
    """sha256 (hex) of a model folder's tokenizer: equal digests mean equal token ids."""
    with folders.fetched(folder) as local:
        file = local / "tokenizer.json"
        content = file.read_bytes() if file.is_file() else str(local).encode()
    return hashlib.sha256(content).hexdigest()


class Teacher:
    """Answers the records of a shard and writes them again with the answers; one per Ray Data actor."""

    def __init__(self, lesson: Lesson) -> None:
        import torch

        from embervlm.stages import get_stage

        config = lesson.config
        torch.set_num_threads(threads_of(config, config.cluster.num_workers))
        self.lesson = lesson
        with folders.fetched(str(config.teacher.model)) as local:
            self.model, self.processor = load_model(local)
        self.model.to(torch.device(device_of(config))).eval()
        self.model.processor = self.processor
        self.stage = get_stage(STAGE)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Teach one shard, or find it taught."""
        shard = self.lesson.manifest.select(STAGE, "train")[row["shard"]]
        path = storage.join(self.lesson.target, shard.path)
        if not storage.exists(path):
            with storage.open_input(storage.join(self.lesson.manifest.dir, shard.path)) as file:
                records = [Record.from_row(r) for r in pq.read_table(file).to_pylist()]
            taught: list[Record] = []
            for start in range(0, len(records), _BATCH):
                taught += self.answer(records[start : start + _BATCH])
            sink = pa.BufferOutputStream()
            pq.write_table(to_table(taught), sink, compression="zstd")
            storage.write_bytes(path, sink.getvalue())
        content = storage.read_bytes(path)
        made = replace(shard, sha256=storage.digest_bytes(content), bytes=len(content), spec=self.lesson.digest)
        return {"shard": row["shard"], "made": json.dumps(asdict(made))}

    def answer(self, records: list[Record]) -> list[Record]:
        """The records with the teacher's own answer, and its distribution at each token of the data's answer."""
        requests = [{"image": r.image, "prompt": r.instruction} for r in records]
        texts = self.model.generate_texts(requests, max_new_tokens=_ANSWER_TOKENS, batch_size=_BATCH)
        spoken = self.distribution(records) if self.lesson.distributions else [(None, None)] * len(records)
        digest = self.lesson.digest
        return [
            replace(r, teacher_text=text, teacher_token_ids=ids, teacher_logprobs=logprobs, teacher_digest=digest)
            for r, text, (ids, logprobs) in zip(records, texts, spoken, strict=True)
        ]

    def distribution(self, records: list[Record]) -> list[tuple[list[list[int]], list[list[float]]]]:
        """Per record: ids and log-probabilities (temperature 1) of the top k at each of its answer's tokens."""
        import torch

        from embervlm.stages.base import to_device

        batch = to_device(self.stage.collate(self.processor, records, None), self.model.device)
        with torch.inference_mode():
            hidden = self.model(**batch).text_hidden
            target = batch["labels"][:, 1:] >= 0
            logits = self.model.language.logits(hidden[:, :-1][target]).float()
            values, ids = logits.log_softmax(-1).topk(min(self.lesson.config.teacher.top_k, logits.shape[-1]))
        counts = target.sum(1).tolist()
        parts = zip(ids.cpu().split(counts), values.cpu().split(counts), strict=True)
        return [(one.tolist(), two.tolist()) for one, two in parts]
