"""What champion and challenger said, recorded for the comparison report: one JSON line each, no picture, no text."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ember_platform.serving.schemas import ComparisonRecord, RankedRobot, RecordedAnswer

logger = logging.getLogger(__name__)

FOLDER = "comparisons"
Draw = Literal["canary", "shadow", "control", None]


def draw(request_id: str, canary_percent: float, shadow_percent: float) -> Draw:
    """Whether a request goes to the challenger (canary), also to it (shadow), or is recorded for comparison (control).

    A pure function of the request id, so that a retry with the same id meets the same model.
    """
    place = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) / 2**64 * 100
    if place < canary_percent:
        return "canary"
    if place < canary_percent + shadow_percent:
        return "shadow"
    if place >= 100 - canary_percent:
        return "control"
    return None


def recorded(version: str, answer: dict[str, Any] | None, model_ms: float, error: str | None = None) -> RecordedAnswer:
    """An answer of `select_many` as it is recorded."""
    robots = [] if answer is None else [RankedRobot(**robot) for robot in answer["robots"]]
    team = [] if answer is None else answer["team"]
    return RecordedAnswer(version=version, robots=robots, team=team, model_ms=round(model_ms, 3), error=error)


class Recorder:
    """Appends records to a file of this replica, and keeps one full file beside the one being written."""

    def __init__(self, state_dir: str, replica: str, most_bytes: int) -> None:
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in replica)[-60:]
        self.path = Path(state_dir, FOLDER, f"{safe}.jsonl")
        self._half = max(1, most_bytes // 2)
        self._lock = threading.Lock()

    def write(self, **values: Any) -> None:
        """Append a `ComparisonRecord` with the present time. A full disk is logged; it does not fail requests."""
        record = ComparisonRecord(time=datetime.now(UTC).isoformat(timespec="milliseconds"), **values)
        line = record.model_dump_json() + "\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size + len(line) > self._half:
                    self.path.replace(self.path.with_suffix(".1.jsonl"))
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                logger.error("comparison: the record of %s is lost: %s", record.request_id, error)


def read_records(state_dir: str) -> Iterator[ComparisonRecord]:
    """Every record that replicas left below a state folder. A line that a crash cut short is skipped and logged."""
    for path in sorted(Path(state_dir, FOLDER).glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield ComparisonRecord.model_validate_json(line)
                except ValidationError:
                    logger.warning("comparison: %s:%d is no record and is skipped", path.name, number)
