"""Several workers' parts of a step on one worker, so that a step is the same on any number of workers.

The global batch of a step is cut into as many shares as the run had workers when it began, and every share is collated,
drawn and run by itself whatever worker has it. A worker with several runs them one after the other, each with its own
backward pass, as it does the micro-batches of an accumulation: means over a share, choices within a share and the order
of the sum stay what they were.

Where the shares of a step exchange rows (contrast over the global batch), they cannot run one after the other: the
first needs what the last one sends. There each runs in a thread up to its exchange and waits; only one thread runs at
a time, so nothing depends on their timing. Their losses then have one backward pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from embervlm.stages.base import Gather

Batch = dict[str, Any]
Losses = dict[str, Tensor]
Forward = Callable[[Batch, "Gather | None"], Losses]


class _StoppedError(RuntimeError):
    """Raised in a share's exchange when another share has failed."""


def run(
    forward: Forward, batches: Sequence[Batch], gather: Gather | None, begin: Callable[[int], None]
) -> list[Losses]:
    """The losses of each share.

    Args:
        forward: (a share's batch, its exchange) → its losses.
        batches: the shares that run together; one is simply run.
        gather: the exchange between workers, None where there is one.
        begin: called with a share's number (0, 1, …) right before it runs: sets its random numbers.

    Raises:
        RuntimeError: one share exchanges rows more often than another.
    """
    if len(batches) == 1:
        begin(0)
        return [forward(batches[0], gather)]
    return _Together(forward, batches, gather, begin).run()


class _Share(threading.Thread):
    """One share under way."""

    def __init__(self, number: int, together: _Together) -> None:
        super().__init__(name=f"share-{number}", daemon=True)
        self.number, self.together = number, together
        self.turn = threading.Semaphore(0)
        self.sent: Tensor | None = None  # what it waits to have exchanged
        self.losses: Losses | None = None
        self.error: BaseException | None = None

    # As an exchange ---------------------------------------------------------

    @property
    def place(self) -> int:
        """This share's number among all that exchange."""
        return self.together.first + self.number

    @property
    def parts(self) -> int:
        """How many exchange."""
        return self.together.parts

    def __call__(self, rows: Tensor) -> Tensor:
        """Wait until every share has sent its rows; all of them."""
        state = torch.get_rng_state()
        self.sent = rows
        self.together.paused.release()
        self.turn.acquire()
        torch.set_rng_state(state)
        if self.together.everyone is None:
            raise _StoppedError
        return self.together.everyone

    # As a thread ------------------------------------------------------------

    def run(self) -> None:
        """Everything that this share computes."""
        self.turn.acquire()
        try:
            if not self.together.stopped:
                self.together.begin(self.number)
                self.losses = self.together.forward(self.together.batches[self.number], self)
        except BaseException as error:  # noqa: BLE001  raised again on the training thread
            self.error = error
        self.together.paused.release()


class _Together:
    """Shares of one worker that wait for each other in their exchanges."""

    def __init__(
        self, forward: Forward, batches: Sequence[Batch], gather: Gather | None, begin: Callable[[int], None]
    ) -> None:
        self.forward, self.batches, self.gather, self.begin = forward, batches, gather, begin
        workers, worker = (gather.parts, gather.place) if gather else (1, 0)
        self.parts, self.first = workers * len(batches), worker * len(batches)
        self.paused = threading.Semaphore(0)
        self.everyone: Tensor | None = None
        self.stopped = False
        self.shares = [_Share(number, self) for number in range(len(batches))]

    def run(self) -> list[Losses]:
        """Turn by turn, to the end of all."""
        for share in self.shares:
            share.start()
        try:
            self._turns()
        finally:
            self.stopped, self.everyone = True, None
            for share in self.shares:
                share.turn.release()
            for share in self.shares:
                share.join()
        return [share.losses or {} for share in self.shares]

    def _turns(self) -> None:
        """Let every share run to its next exchange or its end, exchange, and again."""
        while True:
            for share in self.shares:
                share.turn.release()
                self.paused.acquire()
                if share.error is not None:
                    raise share.error
            sent = [share.sent for share in self.shares if share.sent is not None]
            if not sent:
                return
            if len(sent) < len(self.shares):
                raise RuntimeError("a stage exchanges rows on some shares of a step and not on others")
            rows = torch.cat(sent)
            self.everyone = self.gather(rows) if self.gather else rows
            for share in self.shares:
                share.sent = None
