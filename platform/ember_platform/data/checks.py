"""What a record must be to enter a shard. A fault has a reason in words; nothing is repaired in silence."""

from __future__ import annotations

import pyarrow as pa

from embervlm.data.images import ImageError, open_image
from embervlm.data.schema import KINDS, SPLITS, STEPS, Record, to_table
from embervlm.fleet import Fleet, FleetError


def fault_of(record: Record, max_image_pixels: int) -> str | None:
    """Why the record cannot be used, or None where it can.

    The picture is decoded in full, after its size is known to be at most `max_image_pixels`.
    """
    return (
        _fault_of_identity(record)
        or _fault_of_text(record)
        or _fault_of_fleet(record)
        or _fault_of_image(record, max_image_pixels)
        or _fault_of_schema(record)
    )


def _fault_of_identity(record: Record) -> str | None:
    for name in ("id", "source"):
        value = getattr(record, name)
        if not isinstance(value, str) or not value:
            return f"{name}: empty"
    if record.kind not in KINDS:
        return f"kind: {record.kind!r} is none of {', '.join(KINDS)}"
    if record.split not in SPLITS:
        return f"split: {record.split!r} is none of {', '.join(SPLITS)}"
    return None


def _blank(text: object) -> bool:
    return not isinstance(text, str) or not text.strip()


def _fault_of_text(record: Record) -> str | None:
    needed = ["response"] if record.kind == "caption" else ["instruction"]
    if record.kind == "instruction":
        needed.append("response")
    for name in needed:
        if _blank(getattr(record, name)):
            return f"{name}: empty text"
    if record.kind == "reasoning" and len(record.reasoning) != len(STEPS):
        return f"reasoning: {len(record.reasoning)} steps where {len(STEPS)} are needed"
    if any(_blank(step) for step in record.reasoning):
        return "reasoning: an empty step"
    return None


def _fault_of_fleet(record: Record) -> str | None:
    if record.kind not in ("selection", "reasoning"):
        return None
    try:
        names = Fleet.of(record.robots).names
    except FleetError as error:
        return f"robots: {error}"
    for label in record.labels:
        if label not in names:
            return f"labels: unknown robot {label!r}; the fleet has {', '.join(names)}"
    if len(set(record.labels)) != len(record.labels):
        return "labels: a robot twice"
    for i, step in enumerate(record.plan):
        if _blank(step.get("subtask")):
            return f"plan[{i}].subtask: empty text"
        if step.get("robot") not in names:
            return f"plan[{i}].robot: unknown robot {step.get('robot')!r}"
    return None


def _fault_of_image(record: Record, max_pixels: int) -> str | None:
    if record.image is None:
        return "image: missing" if record.kind == "caption" else None
    if not isinstance(record.image, bytes) or not record.image:
        return "image: zero bytes"
    try:
        open_image(record.image, "image", max_pixels)
    except ImageError as error:
        return str(error)
    return None


def _fault_of_schema(record: Record) -> str | None:
    try:
        to_table([record])
    except (pa.ArrowException, TypeError, ValueError) as error:
        return f"schema: {error}"
    return None
