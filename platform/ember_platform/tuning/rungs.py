"""ASHA that remembers: Ray's scheduler, told what a killed sweep had already seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ember_platform.tuning.ledger import Record
from ember_platform.tuning.space import SchedulerConfig

#: The key of a report by which trials are compared. A trial's last epoch has none: there is nothing left to stop.
TIME, VALUE = "epoch", "value"


@dataclass
class _Named:
    """What the scheduler needs of a trial, under the number that outlives the process."""

    trial_id: str


class Rungs(ASHAScheduler):
    """ASHA by epoch, over trials named by their numbers."""

    def __init__(self, settings: SchedulerConfig, mode: str, epochs: int, known: Sequence[Record] = ()) -> None:
        super().__init__(
            time_attr=TIME,
            metric=VALUE,
            mode=mode,
            max_t=epochs,
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        self._doomed: set[str] = set()
        self._replay(known, epochs)

    def _replay(self, known: Sequence[Record], epochs: int) -> None:
        """Judge what was reported before again, in its order. Who would be stopped and still runs is stopped later."""
        seen = [(epoch.at, record, epoch) for record in known for epoch in record.epochs if epoch.epoch < epochs]
        for record in known:
            super().on_trial_add(None, _Named(record.name))  # type: ignore[arg-type]
        for _, record, epoch in sorted(seen, key=lambda item: (item[0], item[1].number, item[2].epoch)):
            report = {TIME: epoch.epoch, VALUE: epoch.value}
            action = super().on_trial_result(None, _Named(record.name), report)  # type: ignore[arg-type]
            if action == TrialScheduler.STOP and not record.over:
                self._doomed.add(record.name)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """They were given at the start."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins, or goes on."""
        super().on_trial_add(tune_controller, self._named(trial))  # type: ignore[arg-type]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch."""
        named = self._named(trial)
        action = super().on_trial_result(tune_controller, named, result)  # type: ignore[arg-type]
        return TrialScheduler.STOP if named.trial_id in self._doomed and TIME in result else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: a trial that is over is compared with by the values that it reported."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing, likewise."""

    @staticmethod
    def _named(trial: Any) -> _Named:
        return _Named(f"{trial.config['number']:03d}")


def milestones(settings: SchedulerConfig, epochs: int) -> list[int]:
    """The epochs after which trials are compared, ascending; none without a scheduler."""
    found: list[int] = []
    at = float(settings.grace)
    while settings.method == "asha" and at < epochs:
        # A rung at a fraction is reached with the next whole epoch.
        found.append(int(-(-at // 1)))
        at *= settings.reduction
    return sorted({epoch for epoch in found if epoch < epochs})
