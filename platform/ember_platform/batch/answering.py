"""Answering one part: the endpoint's checks, the endpoint's engine, one parquet file of answers."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from ember_platform import storage
from ember_platform.batch.parts import BatchError, Part, Question, picture_bytes, read_part
from ember_platform.config_serving import LimitsConfig
from ember_platform.serving.engine import Engine, Request
from ember_platform.serving.limits import check_fleet, check_text
from ember_platform.serving.problems import ProblemError, invalid
from ember_platform.serving.schemas import Robots
from embervlm.fleet import Fleet, default_fleet

logger = logging.getLogger(__name__)

_STRINGS = pa.list_(pa.string())
ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("robot", pa.string()),
        ("confidence", pa.float64()),
        ("robots", pa.list_(pa.struct([("robot", pa.string()), ("confidence", pa.float64())]))),
        ("team", _STRINGS),
        ("none_of_these", pa.float64()),
        ("familiarity", pa.float64()),
        ("plan", pa.list_(pa.struct([("order", pa.int32()), ("subtask", pa.string()), ("robot", pa.string())]))),
        ("reasoning", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
    ]
)
FAULTS = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("field", pa.string()), ("reason", pa.string())]
)
_ROBOTS: TypeAdapter[Any] = TypeAdapter(Robots)


@dataclass(frozen=True)
class Options:
    """How records are answered. `fleet` is for records that name none: JSON of robots, or None for the default."""

    reasoning: bool = False
    top_k: int | None = None
    fleet: str | None = None
    batch_size: int = 32
    decode_threads: int = 2
    max_new_tokens: int = 192


@dataclass(frozen=True)
class Note:
    """What became of a part; written last, so that a part that has one is done."""

    key: str
    rows: int
    answered: int
    reasons: dict[str, int]
    seconds: float

    def as_json(self) -> bytes:
        """As it is written."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def paths(output: str, key: str) -> tuple[str, str, str]:
    """Where a part's answers, its quarantine and its note lie."""
    return (
        storage.join(output, "answers", f"part-{key}.parquet"),
        storage.join(output, "quarantine", f"part-{key}.parquet"),
        storage.join(output, ".notes", f"{key}.json"),
    )


class Answerer:
    """Answers parts with one loaded engine."""

    def __init__(self, engine: Engine, limits: LimitsConfig, options: Options, output: str) -> None:
        self.engine = engine
        self.limits = limits
        self.options = options
        self.output = output
        self._fleet = lru_cache(maxsize=256)(self._checked_fleet)

    def answer(self, part: Part, key: str) -> Note:
        """Read, answer and write a part.

        Raises:
            BatchError: its file cannot be read any more. StorageError: its answers cannot be written.
        """
        started = time.monotonic()
        questions = read_part(part)
        answers: list[dict[str, Any]] = []
        faults: list[dict[str, Any]] = []
        with ThreadPoolExecutor(self.options.decode_threads) as pool:
            # Later records are checked and decoded while the model answers the first ones.
            prepared = pool.map(lambda question: self._prepared(part, question), questions)
            pairs = zip(questions, prepared, strict=True)
            while chunk := list(islice(pairs, self.options.batch_size)):
                self._answer_chunk(part, chunk, answers, faults)
        ours, theirs, note_path = paths(self.output, key)
        storage.write_bytes(ours, _parquet(answers, ANSWERS))
        if faults:
            storage.write_bytes(theirs, _parquet(faults, FAULTS))
        else:
            storage.delete(theirs)
        reasons = Counter(f"{fault['field']}: {fault['reason']}".removeprefix(": ")[:80] for fault in faults)
        note = Note(key, len(questions), len(answers), dict(reasons), time.monotonic() - started)
        storage.write_bytes(note_path, note.as_json())
        return note

    # ------------------------------------------------------------ checks

    def _prepared(self, part: Part, question: Question) -> Request | tuple[str, str]:
        """The question as the model takes it, or what is wrong with it: field and reason."""
        if question.fault is not None:
            return question.fault
        try:
            if not isinstance(question.task, str):
                return "task", "missing" if question.task is None else f"{type(question.task).__name__} is no text"
            task = check_text(question.task, "task", self.limits.task_chars)
            fleet = self._fleet(_fleet_text(question.fleet))
            content = picture_bytes(part, question)
            return self.engine.prepare(task, fleet, content, False, self.limits)
        except BatchError as error:
            return "image", str(error)
        except ProblemError as error:
            if error.errors:
                return error.errors[0].field, error.errors[0].message
            return error.slug, error.detail

    def _checked_fleet(self, text: str | None) -> Fleet:
        text = text if text is not None else self.options.fleet
        if text is None:
            return default_fleet()
        return parse_fleet(text, self.limits)

    # ------------------------------------------------------------ the model

    def _answer_chunk(
        self,
        part: Part,
        chunk: Sequence[tuple[Question, Request | tuple[str, str]]],
        answers: list[dict[str, Any]],
        faults: list[dict[str, Any]],
    ) -> None:
        for question, prepared in chunk:
            if not isinstance(prepared, Request):
                faults.append(_fault(part, question, *prepared))
        good = [(question, prepared) for question, prepared in chunk if isinstance(prepared, Request)]
        for (question, _), answer in zip(good, self._answers([request for _, request in good]), strict=True):
            if isinstance(answer, Exception):
                faults.append(_fault(part, question, "model", f"{type(answer).__name__}: {answer}"[:200]))
            else:
                answers.append(self._row(part, question, answer))

    def _answers(self, requests: list[Request]) -> list[dict[str, Any] | Exception]:
        """An answer to each; where the model fails on all together, the ones that it fails on alone are found."""
        if not requests:
            return []
        try:
            return list(self._ask(requests))
        except Exception as error:  # noqa: BLE001  told in the quarantine; one record does not end a run of millions
            if len(requests) == 1:
                logger.warning("batch: the model failed on a record: %s", error)
                return [error]
            middle = len(requests) // 2
            return self._answers(requests[:middle]) + self._answers(requests[middle:])

    def _ask(self, requests: list[Request]) -> list[dict[str, Any]]:
        if not self.options.reasoning:
            return self.engine.select(requests)
        steps = self.engine.reason(requests, self.options.max_new_tokens)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return list(end.value)

    def _row(self, part: Part, question: Question, answer: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": question.id,
            "file": part.path,
            "row": question.row,
            "robot": answer["robots"][0]["robot"],
            "confidence": answer["robots"][0]["confidence"],
            "robots": answer["robots"][: self.options.top_k],
            "team": answer["team"],
            "none_of_these": answer["none_of_these"],
            "familiarity": answer["familiarity"],
            "plan": answer["plan"],
            "reasoning": answer["reasoning"] or None,
            "model": self.engine.facts.name,
            "version": self.engine.version,
        }


def parse_fleet(text: str, limits: LimitsConfig) -> Fleet:
    """A fleet from JSON: a list of robots, or `{"robots": [...]}`.

    Raises:
        ProblemError: what is wrong with it.
    """
    try:
        value = json.loads(text)
        robots = _ROBOTS.validate_python(value["robots"] if isinstance(value, dict) and "robots" in value else value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["fleet", *map(str, first["loc"])])
        raise invalid(where, first["msg"]) from error
    except (ValueError, RecursionError) as error:
        raise invalid("fleet", f"not JSON ({error})") from error
    return check_fleet(robots, limits)


def _fleet_text(fleet: Any) -> str | None:
    """A record's fleet as JSON, so that equal ones are checked once."""
    if fleet is None or isinstance(fleet, str):
        return fleet
    return json.dumps(_without_nulls(fleet), default=str)


def _without_nulls(value: Any) -> Any:
    # Parquet gives a robot's missing list as null.
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _fault(part: Part, question: Question, field: str, reason: str) -> dict[str, Any]:
    return {"id": question.id, "file": part.path, "row": question.row, "field": field, "reason": reason}


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def read_notes(output: str, keys: Sequence[str]) -> Iterator[Note]:
    """The notes of those parts that are done; one that is damaged only costs answering its part again."""
    for key in keys:
        ours, _, path = paths(output, key)
        if not (storage.exists(path) and storage.exists(ours)):
            continue
        try:
            yield Note(**json.loads(storage.read_bytes(path)))
        except (ValueError, TypeError):
            logger.warning("batch: the note %s is damaged; its part is answered again", key)
