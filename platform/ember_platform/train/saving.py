"""Checkpoints written beside the training step.

Between two steps every rank copies its share of weights and optimizer to memory (`engine_state.snapshot`), and a thread
writes the copy while the next steps run. That is safe because:

- the copy is taken where every rank has done the same step, and nothing trains on it;
- every step ends with one exchange between the ranks anyway (is every loss a number?), in which each also says whether
  its part is stored; only when all are does rank 0 write the record that makes the folder a checkpoint;
- one checkpoint is under way at a time: the next one, a report, and the end of a phase wait for it.

So a run that is killed at any moment finds the last recorded checkpoint whole, and at worst loses the one under way.
Where storage refuses, writing is tried again with longer and longer pauses; training goes on until the next checkpoint
is due, then it waits, and when patience ends it stops on all ranks, with the last checkpoint as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ember_platform import storage
from ember_platform.train import checkpoint as ck
from ember_platform.train import collectives, folders
from ember_platform.train.faults import TrainingError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

Metrics = dict[str, float]
Write = Callable[[Path], None]
T = TypeVar("T")


@dataclass
class _Underway:
    """A checkpoint that is being written: its name, what to report with it, this rank's files once they are stored."""

    name: str
    metrics: Metrics
    part: Future[ck.Sums]

    @property
    def stored(self) -> bool:
        return self.part.done() and self.part.exception() is None

    @property
    def refusal(self) -> str | None:
        error = self.part.exception() if self.part.done() else None
        return f"{type(error).__name__}: {error}" if error is not None else None


class Saver:
    """The checkpoints of one stage's run, on one rank. Every rank calls everything, in the same order.

    Args:
        folder: the stage's; checkpoints are folders in it.
        keep: checkpoints kept beside the best.
        patience: seconds that a refused write is tried again.
        report: takes (metrics, path of the checkpoint, its name) when it is complete.
        say: prints a line.
    """

    def __init__(
        self,
        folder: str,
        keep: int,
        patience: float,
        report: Callable[[Metrics, str | None, str], None],
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.keep, self.patience = folder, keep, patience
        self.report, self.say = report, say
        self._underway: _Underway | None = None
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, name: str, metrics: Metrics, write: Write) -> None:
        """Begin a checkpoint: `write` puts this rank's files into the folder that it is given, on a thread.

        Raises:
            TrainingError: the one before could not be stored.
        """
        self.settle()
        self._underway = _Underway(name, metrics, self._thread.submit(self._store, name, write))

    def flags(self) -> dict[str, float]:
        """What this rank says in the exchange at the end of a step."""
        if self._underway is None:
            return {}
        return {"stored": float(self._underway.stored), "refused": float(self._underway.refusal is not None)}

    def take(self, flags: dict[str, float]) -> None:
        """Act on the mean of all ranks' flags: complete the checkpoint under way, or stop.

        Raises:
            TrainingError: a rank's part could not be stored.
        """
        if self._underway is not None and (flags["stored"] == 1.0 or flags["refused"] > 0):
            self._finish(self._underway)

    def settle(self) -> None:
        """Wait until no checkpoint is under way.

        Raises:
            TrainingError: it could not be stored.
        """
        if self._underway is not None:
            self._underway.part.exception()  # waits
            self._finish(self._underway)

    def close(self) -> None:
        """End the thread; a checkpoint that is not complete yet will not be."""
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------ on the training thread

    def _finish(self, done: _Underway) -> None:
        """Record a checkpoint that every rank has stored, or raise on all of them."""
        parts = collectives.all_objects((done.part.result() if done.stored else None, done.refusal))
        refusals = [f"rank {rank}: {refusal}" for rank, (_, refusal) in enumerate(parts) if refusal]
        self._underway = None
        if not refusals and collectives.rank() == 0:
            sums = {name: value for part, _ in parts for name, value in (part or {}).items()}
            refusals = self._record(done.name, sums)
        refusals = collectives.from_rank_zero(refusals)
        if refusals:
            kept = ck.names(self.folder)
            raise TrainingError(
                f"{storage.join(self.folder, done.name)}: this checkpoint could not be stored in {self.patience:g} s "
                f"({'; '.join(refusals)}). "
                + (f"{kept[-1]} is intact; make room there" if kept else "There is none before it; make room there")
                + " and start the same command again: it goes on from what is stored"
            )
        self.report(done.metrics, storage.join(self.folder, done.name), done.name)

    def _record(self, name: str, sums: ck.Sums) -> list[str]:
        """Write the record and remove what is no longer kept; the reason where that is refused."""
        try:
            self._patiently(name, lambda: ck.commit(storage.join(self.folder, name), sums))
        except OSError as error:
            return [f"rank 0: {type(error).__name__}: {error}"]
        try:
            prune(self.folder, self.keep)
        except OSError as error:  # the next one tries again
            self.say(f"{name}: stored, but an older checkpoint could not be removed: {error}")
        return []

    # ---------------------------------------------------------------------- on the other thread

    def _store(self, name: str, write: Write) -> ck.Sums:
        return self._patiently(name, lambda: store(storage.join(self.folder, name), write))

    def _patiently(self, name: str, attempt: Callable[[], T]) -> T:
        """Try until it works or patience ends, with pauses that double."""
        end, pause = time.monotonic() + self.patience, _FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except OSError as error:
                left = end - time.monotonic()
                if left <= 0 or self._closed.is_set():
                    raise
                self.say(
                    f"{name}: storage refuses it ({type(error).__name__}: {error}); tried again for {left:.0f} s, "
                    "while training goes on until the next checkpoint is due"
                )
            self._closed.wait(min(pause, max(0.0, left)))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def store(target: str, write: Write) -> ck.Sums:
    """Put this rank's files into a checkpoint's folder, beside those of the others; what they are.

    Raises:
        OSError: storage refused. Nothing of this rank is left there.
    """
    rank = collectives.rank()
    _, inside = storage.resolve(target)
    if not storage.is_local(target):
        with tempfile.TemporaryDirectory(prefix="embervlm-checkpoint-") as temporary:
            part = Path(temporary)
            _written(part, write)
            sums = ck.sums_of(part)
            folders.publish(part, target)
            return sums
    part = Path(inside, f".part-{rank}")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
        _written(part, write)
        sums = ck.sums_of(part, flush=True)
        for path in part.iterdir():
            place = part.parent / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.replace(place)
        _flush_folder(part.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sums


def _written(part: Path, write: Write) -> None:
    """Write, with one kind of error where the system refuses."""
    try:
        write(part)
    except OSError:
        raise
    except Exception as error:
        if "(os error" not in str(error):  # so the Rust libraries (safetensors, tokenizers) tell of a full disk
            raise
        raise storage.StorageError(f"{part}: cannot be written: {error}") from error


def _flush_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prune(folder: str, keep: int) -> None:
    """Remove the checkpoints of a stage that are neither among the newest nor the best as one of those knows it."""
    found = ck.names(folder)
    kept = set(found[-keep:])
    for name in found[-keep:]:
        state = folders.read_json(storage.join(folder, name, ck.STATE)) or {}
        kept.add(str((state.get("best") or {}).get("checkpoint")))
    for name in found:
        if name not in kept:
            remove(storage.join(folder, name))


def remove(checkpoint: str) -> None:
    """Remove a checkpoint, its record first, so that half of one never counts.

    Raises:
        StorageError: it cannot be removed.
    """
    storage.delete(storage.join(checkpoint, ck.RECORD))
    folders.remove(checkpoint)
