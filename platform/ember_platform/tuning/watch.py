"""What happens to the trials, written down as it happens: ledger, tracking, lines of progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.tracking import Tracker
from ember_platform.tuning.ledger import FAILED, FINISHED, RUNNING, STOPPED, Epoch, Ledger, Record
from ember_platform.tuning.search import propose
from ember_platform.tuning.space import SweepConfig
from ember_platform.tuning.trial import classify


class Watch(Callback):
    """The driver's memory of a sweep; the only one who writes its ledger."""

    def __init__(
        self, sweep: SweepConfig, base: RunConfig, ledger: Ledger, name: str, known: Sequence[Record], say: Any
    ) -> None:
        self.sweep, self.base, self.ledger, self.name, self.say = sweep, base, ledger, name, say
        self.records = {record.number: record for record in known}
        self.tracker = Tracker(base.model_copy(update={"name": name}))
        self.parent = self.tracker.start_pipeline({"sweep": sweep.model_dump(mode="json")})
        self.tracker.set_tags({"sweep": name, "stage": str(sweep.stage)})
        self.trackers: dict[int, Tracker] = {}
        self.died: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of it travels: Tune pickles what it was given, for a way of resuming that is not ours."""
        return {}

    # ------------------------------------------------------------------ trials

    def open_trial(self, number: int) -> dict[str, Any]:
        """Tune's configuration of a trial: the one that is known, or a new one."""
        record = self.records.get(number)
        if record is None:
            params = propose(self.sweep, self.base, list(self.records.values()), number)
            record = self.records[number] = Record(number, params)
        tracker = Tracker(self.base.model_copy(update={"name": self.name}), self.parent)
        record.run = tracker.start_stage(self.sweep.stage, f"trial-{record.name}", record.params)
        self.trackers[number] = tracker
        self.ledger.put(record)
        return {"number": number, "params": record.params, "run": record.run}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there."""
        record = self._of(trial)
        shown = "  ".join(
            f"{key.removeprefix(f'stages.{self.sweep.stage}.')}={_short(value)}" for key, value in record.params.items()
        )
        self.say(f"trial {record.name} starts: {shown}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, or the trial's end; `done` is also set where the scheduler stops it."""
        record = self._of(trial)
        record.started = record.started or result.get("started")
        if "fault" in result:
            self._end(record, FAILED, result["fault"], result["reason"])
            return
        epoch = int(result.get("epoch") or result["last_epoch"])
        self._epoch(record, epoch, result)
        if "figures" in result:
            record.figures, record.model = dict(result["figures"]), result["model"]
            record.startup = {name: round(value, 3) for name, value in result["startup"].items()}
            self._end(record, FINISHED)
        elif result.get("done"):
            self._end(record, STOPPED, reason=f"below the cut of its rung after epoch {epoch}")
        else:
            self.ledger.put(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died, or something in it that it could not tell itself. Tune knows the cause only later."""
        record = self._of(trial)
        if not record.over:
            self.died[record.number] = trial
            self._end(record, FAILED, "crashed", "the trial's process ended")

    def _of(self, trial: Any) -> Record:
        return self.records[trial.config["number"]]

    def _epoch(self, record: Record, epoch: int, result: dict[str, Any]) -> None:
        """Note an epoch, once: a trial that goes on tells those before again."""
        if any(known.epoch == epoch for known in record.epochs):
            return
        metrics = {name: float(value) for name, value in result["metrics"].items()}
        record.epochs.append(Epoch(epoch, int(result["step"]), float(result["value"]), metrics, time.time()))
        tracker = self.trackers[record.number]
        tracker.log_metrics({**metrics, "value": float(result["value"])}, step=epoch)
        tracker.flush()
        self.say(f"trial {record.name} epoch {epoch}: " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

    def _end(self, record: Record, status: str, fault: str | None = None, reason: str | None = None) -> None:
        """Write how a trial ended, wherever that is kept."""
        record.status, record.fault, record.reason, record.ended = status, fault, reason, time.time()
        self.ledger.put(record)
        tracker = self.trackers[record.number]
        tracker.log_metrics({f"best_{name}": value for name, value in record.figures.items()}, step=len(record.epochs))
        tracker.set_tags(
            {"status": status, **({"fault": fault} if fault else {}), **({"reason": reason} if reason else {})}
        )
        tracker.end_stage({FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}[status])
        first = self.sweep.objectives[0]
        value = record.objective(first)
        end = f": {first.metric} {value:.4f}" if value is not None else f": {fault + ': ' if fault else ''}{reason}"
        self.say(f"trial {record.name} {status}{end}")

    # --------------------------------------------------------------------- end

    def tidy(self) -> None:
        """Every trial's process is gone: the checkpoints of stopped trials, which nobody will go on from, go too."""
        for number, trial in self.died.items():
            record = self.records[number]
            if text := trial.get_error():
                record.fault, record.reason = classify(str(text))
                self.ledger.put(record)
        for record in self.records.values():
            if record.status == STOPPED:
                discard(storage.join(self.ledger.trial_dir(record.number), f"stage{self.sweep.stage}"))

    def close(self, status: str) -> str:
        """Close the tracking; what became of it in one sentence."""
        for number, tracker in self.trackers.items():
            if self.records[number].status == RUNNING:
                tracker.end_stage("KILLED")
        return self.tracker.finish(status)


def discard(folder: str) -> None:
    """Remove a trial's training."""
    filesystem, inside = storage.resolve(folder)
    if storage.exists(folder):
        filesystem.delete_dir(inside)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
