"""The next trial's parameters: Optuna's TPE over what the ledger holds, through Ray Tune's `Searcher`.

A proposal is a function of space, seed, number and ledger alone, with no state of its own: a sweep that was killed and
goes on asks what it would have asked.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from ember_platform.config import RunConfig
from ember_platform.tuning.ledger import FAILED, FINISHED, RUNNING, STOPPED, Record
from ember_platform.tuning.space import Params, SweepConfig

#: Faults that lie in the parameters; the search learns to keep away from them.
_OF_PARAMETERS = ("diverged", "out of memory", "configuration")


def propose(sweep: SweepConfig, base: RunConfig, records: Sequence[Record], number: int) -> Params:
    """Parameters of the trial with this number, given the others."""
    if number == 0:
        return sweep.defaults(base)
    import optuna

    study = study_of(sweep, [r for r in records if r.number != number], _sampler(sweep, number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sweep.sample(study.ask())


def study_of(sweep: SweepConfig, records: Sequence[Record], sampler: Any = None) -> Any:
    """The records as an Optuna study."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if objective.mode == "max" else ways.MINIMIZE for objective in sweep.objectives]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for record in sorted(records, key=lambda r: r.number):
        study.add_trial(_frozen(sweep, record))
    return study


def _sampler(sweep: SweepConfig, number: int) -> Any:
    import optuna

    text = f"{sweep.search.seed} {number}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    if sweep.search.method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=sweep.search.startup, multivariate=True, group=True, constant_liar=True
        )


def _frozen(sweep: SweepConfig, record: Record) -> Any:
    """A record as Optuna keeps it.

    What the scheduler stopped is pruned, with its epochs' values; what failed because of its parameters is pruned with
    none, which ranks last; what failed otherwise says nothing of them.
    """
    import optuna

    encoded = {name: sweep.space[name].encode(value) for name, value in record.params.items()}
    fixed = optuna.trial.FixedTrial(encoded)
    sweep.sample(fixed)
    values = [value for o in sweep.objectives if (value := record.objective(o)) is not None]
    complete = record.status == FINISHED and len(values) == len(sweep.objectives)
    states = optuna.trial.TrialState
    state = states.FAIL
    if complete:
        state = states.COMPLETE
    elif record.status == RUNNING:
        state = states.RUNNING
    elif record.status == STOPPED or (record.status == FAILED and record.fault in _OF_PARAMETERS):
        state = states.PRUNED
    single = len(sweep.objectives) == 1
    shown = {e.epoch: e.value for e in record.epochs} if single and record.status != FAILED else {}
    return optuna.trial.create_trial(
        state=state,
        values=values if complete else None,
        params=encoded,
        distributions=fixed.distributions,
        intermediate_values=shown,
    )


class LedgerSearch(Searcher):
    """Hands Ray Tune the trials that are to run."""

    def __init__(self, numbers: Sequence[int], open_trial: Callable[[int], dict[str, Any]]):
        """`numbers` are to run, in order; `open_trial` finds or makes one's record and gives Tune's configuration."""
        super().__init__(metric="value", mode="max")
        self.queue = list(numbers)
        self.open_trial = open_trial

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's configuration of it, or that there is none."""
        if not self.queue:
            return Searcher.FINISHED
        return self.open_trial(self.queue.pop(0))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The ledger knows it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""
