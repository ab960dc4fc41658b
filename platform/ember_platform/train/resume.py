"""Where a run goes on: from its newest checkpoint that is whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ember_platform import storage
from ember_platform.train import checkpoint as ck
from ember_platform.train import collectives, saving
from ember_platform.train.folders import fetched


@contextlib.contextmanager
def newest(folder: str, say: Callable[[str], None]) -> Iterator[Path | None]:
    """The newest whole checkpoint of a stage as a local folder, or None. Every rank calls it and gets the same.

    A damaged one is passed over for the one before it, and said so. Whatever is newer than the one that is taken
    (damaged, or never completed) is removed: the run makes it anew.

    Args:
        folder: the stage's.
        say: prints a line.
    """
    with contextlib.ExitStack() as stack:
        chosen = None
        for name in reversed(collectives.from_rank_zero(ck.names(folder))):
            path = storage.join(folder, name)
            attempt = stack.enter_context(contextlib.ExitStack())
            local = attempt.enter_context(fetched(path))
            faults = [fault for fault in collectives.all_objects(ck.damage(local)) if fault]
            if not faults:
                chosen = (name, local)
                break
            attempt.close()
            if collectives.rank() == 0:
                say(f"{path}: damaged: {faults[0]}; going on from the checkpoint before it")
        if collectives.rank() == 0:
            _clear_after(folder, chosen[0] if chosen else "")
        collectives.from_rank_zero(None)  # nobody writes before it is clear
        yield chosen[1] if chosen else None


@contextlib.contextmanager
def given(path: str) -> Iterator[Path]:
    """A checkpoint that the user named, as a local folder.

    Raises:
        CheckpointError: it is damaged; no other is taken in its place.
    """
    with fetched(path) as local:
        fault = next((fault for fault in collectives.all_objects(ck.damage(local)) if fault), None)
        if fault:
            raise ck.CheckpointError(f"{path}: damaged: {fault}; name another one with --resume_from")
        yield local


def best_model(folder: str, best: str, newest_name: str, say: Callable[[str], None]) -> str:
    """The model folder of a stage's best checkpoint; where that is damaged, of the newest one that is not.

    Raises:
        CheckpointError: no checkpoint has its model.
    """
    for name in dict.fromkeys([best, newest_name, *reversed(ck.names(folder))]):
        path = storage.join(folder, name)
        if not storage.exists(storage.join(path, ck.RECORD)):
            continue
        with fetched(path) as local:
            fault = ck.damage(local, (f"{ck.MODEL}/", ck.STATE))
        if fault is None:
            if name != best:
                say(f"{path}: its model is the stage's, as the best checkpoint, {best}, is damaged")
            return storage.join(path, ck.MODEL)
        say(f"{path}: damaged: {fault}")
    raise ck.CheckpointError(f"{folder}: no checkpoint there has a whole model; train the stage again")


def _clear_after(folder: str, name: str) -> None:
    """Remove every checkpoint folder after that one, recorded or not."""
    inside = storage.resolve(folder)[1]
    files = (Path(storage.resolve(file)[1]).relative_to(inside) for file in storage.list_files(folder))
    for found in sorted({file.parts[0] for file in files}):
        if found.startswith(ck.PREFIX) and found > name:
            saving.remove(storage.join(folder, found))
