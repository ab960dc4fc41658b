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
from ember_platform.train.plan import PlanError, check_teacher
from ember_platform.train.setup import threads_of
from ember_platform.train.speakers import BATCH, STAGE, Answer, load_speaker, way_of
from embervlm.data.schema import Record, to_table


@dataclass(frozen=True)
class Lesson:
    """What a teacher is asked for: the manifest's training records, taught, in the folder `target`.

    `digest` is the teacher's, `student` the folder of who will be taught, `way` how (`speakers.WAYS`).
    """

    config: RunConfig
    manifest: Manifest
    target: str
    digest: str
    student: str
    way: str


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
        config: names the teacher (a model folder), how the student is matched to it, and how much of its
            distribution is kept.
        manifest: of the prepared data.
        student: the model folder that will be taught; whose vocabulary decides whether distributions say anything.
        runner: how shards are taught; the default is a Ray Data job on the running cluster.
        say: takes lines of progress.

    Returns:
        The data folder with the taught shards, for stage 2.

    Raises:
        PlanError: teacher or student is no model folder, or the teacher has nothing to say to these records.
    """
    from ember_platform.train.pipeline import content_digest

    teacher = str(config.teacher.model)
    check_teacher(teacher)
    if not storage.exists(storage.join(student, "config.json")):
        raise PlanError(f"--student: {student} is no EmberVLM folder (no config.json); train stage 1 first")
    digest = content_digest(teacher)
    way = way_of(config, teacher, student)
    key = [digest, manifest.stage_digest(STAGE), config.teacher.top_k, {"kl": True, "text": False}.get(way, way)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    target = storage.join(manifest.dir, f"taught-{name}")
    if storage.exists(storage.join(target, FILE)):
        say(f"teacher: {target} is complete")
        return target
    top = f"top {config.teacher.top_k} log-probabilities"
    how = {"kl": f"text and {top}", "text": "text only", "transport": f"text and {top} in their order"}[way]
    if way == "text" and config.teacher.match == "auto":
        how += ": another tokenizer"
    say(f"teacher: {teacher} reads {manifest.rows(STAGE, 'train')} records ({how})")
    started = time.monotonic()
    shards = manifest.select(STAGE, "train")
    done: dict[int, Shard] = {}
    spoken = 0
    for row in (runner or on_ray)(Lesson(config, manifest, target, digest, student, way), len(shards)):
        done[row["shard"]] = Shard(**json.loads(row["made"]))
        spoken += row["spoken"]
        say(f"teacher: {len(done)}/{len(shards)} shards")
    if not spoken:
        raise PlanError(f"teacher.model: {teacher} reads text only, and every record has a picture; name one that sees")
    if spoken < manifest.rows(STAGE, "train"):
        say(f"teacher: answered {spoken} records, those without a picture; it reads text only")
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
        num_gpus=cluster.gpus or None,
    )
    yield from dataset.iter_rows()


class Teacher:
    """Answers the records of a shard and writes them again with the answers; one per Ray Data actor."""

    def __init__(self, lesson: Lesson) -> None:
        import torch

        config = lesson.config
        torch.set_num_threads(threads_of(config, config.cluster.num_workers))
        self.lesson = lesson
        self.speaker = load_speaker(config, lesson.way, lesson.student)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Teach one shard, or find it taught."""
        shard = self.lesson.manifest.select(STAGE, "train")[row["shard"]]
        path = storage.join(self.lesson.target, shard.path)
        if not storage.exists(path):
            with storage.open_input(storage.join(self.lesson.manifest.dir, shard.path)) as file:
                records = [Record.from_row(r) for r in pq.read_table(file).to_pylist()]
            taught: list[Record] = []
            for start in range(0, len(records), BATCH):
                taught += self.answer(records[start : start + BATCH])
            sink = pa.BufferOutputStream()
            pq.write_table(to_table(taught), sink, compression="zstd")
            storage.write_bytes(path, sink.getvalue())
        content = storage.read_bytes(path)
        digests = pq.read_table(pa.BufferReader(content), columns=["teacher_digest"])["teacher_digest"]
        made = replace(shard, sha256=storage.digest_bytes(content), bytes=len(content), spec=self.lesson.digest)
        spoken = len(digests) - digests.null_count
        return {"shard": row["shard"], "made": json.dumps(asdict(made)), "spoken": spoken}

    def answer(self, records: list[Record]) -> list[Record]:
        """The records with the teacher's own answer, and its distribution at each token of the data's answer."""
        asked = [record for record in records if self.speaker.can_answer(record)]
        answers = iter(self.speaker.answer(asked) if asked else [])
        return [
            self._taught(record, next(answers)) if self.speaker.can_answer(record) else record for record in records
        ]

    def _taught(self, record: Record, answer: Answer) -> Record:
        return replace(
            record,
            teacher_text=answer.text,
            teacher_token_ids=answer.ids,
            teacher_logprobs=answer.logprobs,
            teacher_digest=self.lesson.digest,
        )
