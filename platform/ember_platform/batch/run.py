"""Many records on a Ray cluster: a part is a row of a Ray Data dataset, an engine is an actor of its pool.

A part is answered by one actor and written at once, so a run that died goes on with the parts that have no note yet,
and a part that an actor died on is given to another one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ember_platform import storage
from ember_platform.batch.answering import ANSWERS, Answerer, Note, Options, paths, read_notes
from ember_platform.batch.parts import BatchError, Part, find_parts
from ember_platform.config import RunConfig
from ember_platform.serving.sources import Found, source_of

_REQUEST = "request.json"
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What a run did. `answered_now` counts the rows of this run, `seconds` its time."""

    parts: int
    parts_now: int
    rows: int
    answered: int
    answered_now: int
    quarantined: dict[str, int]
    model: str
    version: str
    seconds: float

    @property
    def bad_share(self) -> float:
        """Rows in quarantine by all rows."""
        return sum(self.quarantined.values()) / self.rows if self.rows else 0.0


Runner = Callable[[list[tuple[Part, str]]], Iterable[Note]]


def select_all(
    config: RunConfig,
    places: Sequence[str],
    output: str,
    options: Options,
    part_rows: int = 512,
    workers: int = 2,
    runner: Runner | None = None,
    say: Callable[[str], None] = print,
) -> Summary:
    """Answer every record, or those that have no answer yet.

    Args:
        config: `serving.model` names the model, `serving.limits` what a record may be.
        places: parquet and JSONL files, or folders of them.
        output: folder for `answers/*.parquet`, `quarantine/*.parquet` and `summary.json`: a path or s3://….
        part_rows: records that are read, answered and written together.
        workers: engines at once.
        runner: answers parts; the default does it on the Ray cluster.
        say: takes lines of progress.

    Raises:
        BatchError: no input, or an output folder of another request. RegistryError: no such model.
    """
    started = time.monotonic()
    found = source_of(config).champion()
    parts = find_parts(places, part_rows)
    request = _request(config, found, options)
    _claim(output, request)
    keyed = {part.key(request): part for part in parts}
    notes = {note.key: note for note in read_notes(output, list(keyed))}
    missing = [(part, key) for key, part in keyed.items() if key not in notes]
    name = f"{found.facts.name} {found.facts.version}"
    say(f"batch: {len(keyed)} parts, {len(notes)} answered already, {len(missing)} to answer with {name}")
    run = runner or (lambda wanted: on_ray(config, found, options, output, wanted, workers))
    answered_now = 0
    for done, note in enumerate(run(missing) if missing else [], 1):
        notes[note.key] = note
        answered_now += note.answered
        if done % max(1, len(missing) // 20) == 0 or done == len(missing):
            say(f"batch: {done}/{len(missing)} parts, {answered_now / (time.monotonic() - started):.0f} rows a second")
    _sweep(output, set(keyed))
    reasons: Counter[str] = Counter()
    for note in notes.values():
        reasons.update(note.reasons)
    summary = Summary(
        parts=len(keyed),
        parts_now=len(missing),
        rows=sum(note.rows for note in notes.values()),
        answered=sum(note.answered for note in notes.values()),
        answered_now=answered_now,
        quarantined=dict(reasons.most_common()),
        model=found.facts.name,
        version=found.facts.version,
        seconds=time.monotonic() - started,
    )
    storage.write_bytes(storage.join(output, _SUMMARY), json.dumps(asdict(summary), indent=2).encode())
    return summary


def _request(config: RunConfig, found: Found, options: Options) -> str:
    """What decides the answers: model, limits, options and columns, but not how fast they come."""
    asked = {key: value for key, value in asdict(options).items() if key not in ("batch_size", "decode_threads")}
    model = [found.facts.name, found.facts.version, found.facts.digest]
    limits = config.serving.limits.model_dump(mode="json")
    content = {"model": model, "options": asked, "limits": limits, "columns": ANSWERS.names}
    return json.dumps(content, sort_keys=True)


def _claim(output: str, request: str) -> None:
    """Note in the output folder what its answers are to.

    Raises:
        BatchError: it holds answers to something else, which would be mixed with these.
    """
    path = storage.join(output, _REQUEST)
    if storage.exists(path):
        if storage.read_bytes(path).decode() != request:
            raise BatchError(
                f"{output}: holds the answers of another model, other options or other columns (see its {_REQUEST}); "
                "name another folder, or delete this one"
            )
    elif storage.list_files(output):
        raise BatchError(f"{output}: holds files that are not this job's; name an empty folder")
    else:
        storage.write_bytes(path, request.encode())


def _sweep(output: str, wanted: set[str]) -> None:
    """Remove what belongs to records that are not in the input any more."""
    kept = {path.rpartition("/")[2] for key in wanted for path in paths(output, key)}
    for folder in ("answers", "quarantine", ".notes"):
        for path in storage.list_files(storage.join(output, folder)):
            if path.rpartition("/")[2] not in kept:
                storage.delete(path)


# ---------------------------------------------------------------- on the cluster


class AnswerActor:
    """An engine on a worker of the cluster; it loads the pinned version by itself."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(settings["threads"])
        config = RunConfig.model_validate(settings["config"])
        engine = load_engine(config, settings["version"])
        self.answerer = Answerer(engine, config.serving.limits, Options(**settings["options"]), settings["output"])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One part, as JSON in and out."""
        part, key = json.loads(row["part"])
        return {"note": self.answerer.answer(Part(**part), key).as_json().decode()}


def load_engine(config: RunConfig, version: str) -> Any:
    """The engine of a version of `serving.model`, in the precision that the endpoint would serve it in.

    Raises:
        UnfitError: it cannot be loaded. RegistryError: there is none.
    """
    from ember_platform.serving.engine import Engine
    from ember_platform.train.precision import resolve_precision

    found = source_of(config).version(version)
    engine = Engine.load(found.fetch(), found.facts, config.serving.replica.fleet_cache)
    if resolve_precision(config.serving.replica.precision, "cpu", "serving.replica.precision") == "bf16":
        engine.narrow()
    return engine


def on_ray(
    config: RunConfig, found: Found, options: Options, output: str, wanted: list[tuple[Part, str]], workers: int
) -> Iterator[Note]:
    """Answer parts in a pool of actors; notes come as parts are done."""
    import os

    import ray

    from ember_platform.data.rayed import ensure_ray, quiet

    ensure_ray(config)
    quiet()
    workers = min(workers, len(wanted))
    cores = config.serving.replica.threads
    settings = {
        "config": config.model_dump(mode="json"),
        "version": found.facts.version,
        "options": asdict(options),
        "output": output,
        "threads": max(1, (os.cpu_count() or 1) // workers) if cores == "auto" else cores,
    }
    rows = [{"part": json.dumps([asdict(part), key])} for part, key in wanted]
    # A block a part: what an actor holds back is one part. Half a CPU each, so that small clusters can hold the pool.
    actor: Any = AnswerActor  # Ray's types know functions only
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_args=(settings,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.5,
        num_gpus=config.serving.replica.gpus or None,
    )
    for row in dataset.iter_rows():
        yield Note(**json.loads(row["note"]))
