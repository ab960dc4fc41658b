"""The one record of every stage, and its pyarrow schema.

A shard is a parquet file of these rows. Robots are referred to in `reasoning` and `plan` by their
exact name in square brackets (`send [Drone]`), so that a mention is a reference and not a spelling;
see `embervlm.data.prompts`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

KINDS = ("caption", "instruction", "selection", "reasoning")
SPLITS = ("train", "validation", "test")
#: The four steps of a reasoning chain, in order.
STEPS = ("task analysis", "environment assessment", "capability matching", "decision")

_STRINGS = pa.list_(pa.string())

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary()),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("reasoning", _STRINGS),
        pa.field(
            "robots",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("capabilities", _STRINGS),
                        ("limitations", _STRINGS),
                        ("environments", _STRINGS),
                    ]
                )
            ),
        ),
        pa.field("labels", _STRINGS),
        pa.field(
            "plan",
            pa.list_(pa.struct([("order", pa.int32()), ("subtask", pa.string()), ("robot", pa.string())])),
        ),
        pa.field("tags", pa.string(), nullable=False),
        pa.field("teacher_text", pa.string()),
        pa.field("teacher_token_ids", pa.list_(pa.list_(pa.int32()))),
        pa.field("teacher_logprobs", pa.list_(pa.list_(pa.float32()))),
        pa.field("teacher_digest", pa.string()),
    ]
)


@dataclass
class Record:
    """One sample.

    `kind` says which stage reads it: caption (1), instruction (2), selection (3), reasoning (4).
    `instruction` is the question or the task (empty for captions), `response` the caption or the
    answer. `labels` are the names of the robots that can do the task (empty: none can). `reasoning`
    holds the four steps (`STEPS`). `tags` slices evaluation and carries ground truth for probes
    ("question_type", "wording_unseen", "robots_unseen", "pair", "scene": {…}, "needs": the kinds of
    requirement, "lacks": {robot: those it does not meet}, "asks" and "told": the same in finer terms,
    "picture": how it was made, where "bare" says that it shows the place alone: of the chain only
    the place's name is then learned); no tag is ever an input of the model. `teacher_text` is a
    teacher's own answer; with the same tokenizer there are also, per response token, its top-k ids and
    log-probabilities (with another one, on request, the latter alone).
    """

    id: str
    source: str
    kind: str
    split: str
    image: bytes | None
    instruction: str
    response: str
    reasoning: list[str] = field(default_factory=list)
    robots: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    plan: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, Any] = field(default_factory=dict)
    teacher_text: str | None = None
    teacher_token_ids: list[list[int]] | None = None
    teacher_logprobs: list[list[float]] | None = None
    teacher_digest: str | None = None

    def to_row(self) -> dict[str, Any]:
        """The record as a row of `SCHEMA` (tags as JSON)."""
        row = dict(self.__dict__)
        row["tags"] = json.dumps(self.tags, sort_keys=True)
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Record:
        """The inverse of `to_row`; nulls in list columns become empty lists."""
        values = dict(row)
        values["tags"] = json.loads(values.get("tags") or "{}")
        for name in ("reasoning", "robots", "labels", "plan"):
            values[name] = list(values.get(name) or [])
        return cls(**values)


def to_table(records: list[Record]) -> pa.Table:
    """The records as a table of `SCHEMA`, in their order."""
    return pa.Table.from_pylist([r.to_row() for r in records], schema=SCHEMA)
