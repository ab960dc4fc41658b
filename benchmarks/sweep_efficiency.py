"""What TPE and ASHA save: the epochs they need for the best of a random search that trains every trial to the end.

    python cluster/local.py submit -- python benchmarks/sweep_efficiency.py --space tune/stage3.yaml \
        --output_dir outputs/sweeps --resume_from outputs/stage2/final --seeds 3

For each seed there are two sweeps of equally many trials from the same model, on the same records: `random` (no
scheduler) and `tpe` (with ASHA). Told are the epochs of each, the epochs after which `tpe` had first reached the best
of `random`, and what a trial costs before its first step. Epochs are those of samples that were trained on,
so what a stopped trial did after its last validation counts. A benchmark that was interrupted goes on where it was.
With `stages.3.restarts` at the rungs (1, 2 and 4 of 8 epochs) both train so, and are compared as finished models.

Training is a function of its settings, so a trial whose parameters were trained to the end before need not train again:
its epochs are taken from there, one by one, until ASHA stops it. That are the defaults, with which every sweep begins,
and the trials that TPE draws at random before it has something to go by, which are those of `random` of the same seed.
They are charged as if they had trained, stopped ones with what the others trained too far, too. The first seed takes
nothing over: both its sweeps train all of it, and the epochs that both trained are compared. From the curves of
`random` it also follows what ASHA alone would have saved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ember_platform.config import RunConfig
    from ember_platform.tuning.ledger import Ledger, Record
    from ember_platform.tuning.space import SweepConfig

ARMS: dict[str, list[str]] = {
    "random": ["search.method=random", "scheduler.method=none"],
    "tpe": ["search.method=tpe", "scheduler.method=asha"],
}
#: Mark of a trial that was not trained again.
TAKEN = "taken over from"


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--space", default="tune/stage3.yaml", help="search space")
    made.add_argument("--config", help="base configuration (default: the one that the search space names)")
    made.add_argument("--output_dir", default="outputs/sweeps", help="where everything is left")
    made.add_argument("--resume_from", help="model that every trial starts from (default: the stage before)")
    made.add_argument("--objective", help="metric:mode in place of the search space's, e.g. team_loss:min")
    made.add_argument("--trials", type=int, help="trials of each sweep")
    made.add_argument("--epochs", type=int, help="epochs of a full training")
    made.add_argument("--startup", type=int, help="trials before TPE has something to go by")
    made.add_argument("--seeds", type=int, default=3, help="pairs of sweeps")
    made.add_argument("overrides", nargs="*", metavar="field=value", help="fields of the base configuration, dotted")
    return made


def main() -> int:
    """Run the pairs, print a table, write `sweep_efficiency.json`."""
    given = parser().parse_intermixed_args()
    from ember_platform.storage import absolute

    began = time.time()
    bench = Bench(given)
    seeds = [bench.pair(seed) for seed in range(given.seeds)]
    content = {
        "command": [str(Path(sys.argv[0]).name), *sys.argv[1:]],
        "minutes": (time.time() - began) / 60,
        "compared": bench.compared,
        "summary": summary(seeds),
        "seeds": seeds,
    }
    path = Path(absolute(given.output_dir), "sweep_efficiency.json")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table(content)))
    print(f"→ {path}", flush=True)
    return 0


class Bench:
    """The sweeps, and the full trainings that there are so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.trained: dict[str, tuple[str, Record]] = {}
        self.compared = {"epochs": 0, "equal": 0}

    def pair(self, seed: int) -> dict[str, Any]:
        """Both sweeps of a seed, and what they say together."""
        told: dict[str, dict[str, Any]] = {}
        for arm in ARMS:
            sweep, base, records = self.run(arm, seed)
            told[arm] = account(sweep, base, records)
            if arm == "random":
                told["asha alone"] = account(*self.asha_alone(seed, records))
        goal = told["random"]["best"]
        full = told["random"]["epochs"]
        reached = {arm: reach(one["course"], goal) for arm, one in told.items()}
        return {
            "seed": seed,
            "arms": told,
            "goal": goal,
            "epochs_to_goal": reached,
            "share_to_goal": {arm: at / full if at is not None else None for arm, at in reached.items()},
            "share": {arm: one["epochs"] / full for arm, one in told.items()},
        }

    def load(self, arm: str, seed: int) -> tuple[SweepConfig, RunConfig]:
        """A sweep's settings."""
        from ember_platform.storage import absolute
        from ember_platform.tuning.space import load_sweep

        given = self.given
        changes = [*ARMS[arm], f"search.seed={seed}"]
        changes += [f"{name}={getattr(given, name)}" for name in ("trials", "epochs") if getattr(given, name)]
        changes += [f"search.startup={given.startup}"] if given.startup else []
        if given.objective:
            metric, _, mode = given.objective.partition(":")
            changes.append(f"objectives={json.dumps([{'metric': metric, 'mode': mode}])}")
        settings = [f"output_dir={absolute(given.output_dir)}", *given.overrides]
        return load_sweep(given.space, changes, settings, given.config)

    def run(self, arm: str, seed: int) -> tuple[SweepConfig, RunConfig, list[Record]]:
        """One sweep, or what is left of it."""
        from ember_platform.storage import absolute
        from ember_platform.tuning.ledger import FINISHED, Ledger, canonical
        from ember_platform.tuning.run import folder_of, run_sweep

        sweep, base = self.load(arm, seed)
        name = f"{arm}-{seed}"
        ledger = Ledger(folder_of(base, name))
        begun = ledger.header() is not None
        if not begun and seed > 0:
            self.take_over(sweep, base, ledger)
        parent = absolute(self.given.resume_from) if self.given.resume_from else None
        outcome = run_sweep(sweep, base, name, resume=begun, resume_from=parent, register=False)
        if not outcome.complete:
            raise KeyboardInterrupt
        for record in outcome.records:
            before = self.trained.get(canonical(record.params))
            if before is not None and not taken(record):
                pairs = list(zip(record.epochs, before[1].epochs, strict=False))
                self.compared["epochs"] += len(pairs)
                self.compared["equal"] += sum(a.value == b.value and a.metrics == b.metrics for a, b in pairs)
            elif before is None and record.status == FINISHED:
                self.trained[canonical(record.params)] = (name, record)
        return sweep, base, outcome.records

    def take_over(self, sweep: SweepConfig, base: RunConfig, ledger: Ledger) -> None:
        """Write the first trials of a sweep that were trained before into its ledger."""
        from ember_platform.train import folders
        from ember_platform.tuning.ledger import PACE, canonical
        from ember_platform.tuning.search import propose

        rows, known = epoch_rows(sweep, base), list[Any]()
        for number in range(sweep.trials):
            before = self.trained.get(canonical(propose(sweep, base, known, number)))
            if before is None:
                break
            known.append(replay(sweep, base, number, before[1], known, source=f"{before[0]}/{before[1].name}"))
            known[-1].pace = {"samples": rows * len(known[-1].epochs)}
            folders.write_json(f"{ledger.trial_dir(number)}/{PACE}", known[-1].pace)
            ledger.put(known[-1])

    def asha_alone(self, seed: int, records: Sequence[Record]) -> tuple[SweepConfig, RunConfig, list[Record]]:
        """What ASHA would have made of the random search: its curves, cut where ASHA would have stopped them."""
        sweep, base = self.load("tpe", seed)
        rows, cut = epoch_rows(sweep, base), list[Any]()
        for record in records:
            cut.append(replay(sweep, base, record.number, record, cut, source="random"))
            cut[-1].pace = {"samples": rows * len(cut[-1].epochs)}
        return sweep, base, cut


def replay(
    sweep: SweepConfig, base: RunConfig, number: int, full: Record, known: Sequence[Record], source: str
) -> Record:
    """A trial as its full training tells it, epoch by epoch, until the scheduler stops it.

    Args:
        sweep, base: of the sweep that it is to be a trial of. number: there.
        full: the training. known: the sweep's trials before it, which it comes after. source: what to call `full`.
    """
    from dataclasses import replace

    from ray.tune.schedulers import TrialScheduler

    from ember_platform.tuning.ledger import STOPPED, Record
    from ember_platform.tuning.rungs import TIME, VALUE, Rungs

    told = full.epochs
    status, figures = full.status, dict(full.figures)
    if sweep.scheduler.method == "asha":
        epochs = base.stage(sweep.stage).epochs
        rungs = Rungs(sweep.scheduler, sweep.objectives[0].mode, epochs, known)
        trial = SimpleNamespace(config={"number": number})
        rungs.on_trial_add(None, trial)
        for count, epoch in enumerate(full.epochs[: epochs - 1], 1):
            if rungs.on_trial_result(None, trial, {TIME: epoch.epoch, VALUE: epoch.value}) == TrialScheduler.STOP:
                told, status, figures = full.epochs[:count], STOPPED, {}
                break
    # Only the order of times matters: after the trials before it, and before whatever will be trained.
    last = max((epoch.at for record in known for epoch in record.epochs), default=0.0)
    return Record(
        number,
        dict(full.params),
        status=status,
        fault=full.fault,
        reason=f"{TAKEN} {source}",
        epochs=[replace(epoch, at=last + i) for i, epoch in enumerate(told, 1)],
        figures=figures,
    )


def epoch_rows(sweep: SweepConfig, base: RunConfig) -> int:
    """Samples of an epoch."""
    from ember_platform.data.manifest import Manifest
    from ember_platform.data.order import epoch_size

    return epoch_size(Manifest.load(base.data.dir).sources(sweep.stage, "train"), base.stage(sweep.stage).mixing)


def taken(record: Record) -> bool:
    """Whether a trial was not trained again."""
    return (record.reason or "").startswith(TAKEN)


def reach(course: Sequence[dict[str, float]], goal: float) -> float | None:
    """The epochs after which a sweep had first reached a value, or None."""
    return next((row["paid"] for row in course if row["best"] >= goal), None)


def account(sweep: SweepConfig, base: RunConfig, records: Sequence[Record]) -> dict[str, Any]:
    """What a sweep cost and came to."""
    from ember_platform.tuning import analysis

    rows = epoch_rows(sweep, base)
    sign = sweep.objectives[0].sign()
    stopped = [r for r in records if r.status == "stopped"]
    beyond = [r.pace.get("samples", 0) / rows - len(r.epochs) for r in stopped if not taken(r)]
    paid = analysis.paid_epochs(records, rows)
    if beyond:  # what was not trained is charged like what was
        paid += statistics.mean(beyond) * sum(map(taken, stopped))
    told = analysis.best_so_far(records, sign)
    # What was trained after a last validation is spread evenly over the course.
    course = [{"paid": one.spent * paid / len(told), "best": sign * one.best} for one in told]
    parts = [record.startup for record in records if record.startup]
    return {
        "best": max(row["best"] for row in course),
        "epochs": paid,
        "validated": len(told),
        "taken_over": sum(map(taken, records)),
        "stopped": len(stopped),
        "failed": sum(record.status == "failed" for record in records),
        "epochs_after_a_stop": beyond,
        "first_step_seconds": [s for record in records if (s := record.first_step_seconds()) is not None],
        "startup": {name: [part.get(name, 0.0) for part in parts] for name in (parts[0] if parts else {})},
        "course": course,
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over the seeds; a seed whose goal was not reached is counted, not averaged."""
    found: dict[str, Any] = {"seeds": len(seeds)}
    for arm in ("random", "asha alone", "tpe"):
        reached = [share for one in seeds if (share := one["share_to_goal"][arm]) is not None]
        found[arm] = {
            "reached": len(reached),
            "share_to_goal": spread(reached),
            "share": spread([one["share"][arm] for one in seeds]),
            "gain": spread([one["arms"][arm]["best"] - one["goal"] for one in seeds]),
        }
    trained = [one["arms"][arm] for one in seeds for arm in ARMS]
    times = [s for one in trained for s in one["first_step_seconds"]]
    found["first_step_seconds"] = {**spread(times), "median": statistics.median(times)} if times else None
    found["startup"] = {
        name: statistics.median(s for one in trained for s in one["startup"].get(name, []))
        for name in next((one["startup"] for one in trained if one["startup"]), {})
    }
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Mean, least and greatest; nothing of nothing."""
    return {"mean": statistics.mean(values), "low": min(values), "high": max(values)} if values else {}


def table(content: dict[str, Any]) -> list[str]:
    """The result as text."""
    lines = [f"{'seed':4}  {'sweep':12} {'best':>7} {'epochs':>7} {'stopped':>7}   epochs until random's best"]
    for one in content["seeds"]:
        for arm, told in one["arms"].items():
            at = one["epochs_to_goal"][arm]
            until = f"{at:6.1f} ({one['share_to_goal'][arm]:.0%})" if at is not None else "never"
            numbers = f"{abs(told['best']):7.4f} {told['epochs']:7.1f} {told['stopped']:7}"
            lines.append(f"{one['seed']:4}  {arm:12} {numbers}   {until}")
    found = content["summary"]
    for arm in ("random", "asha alone", "tpe"):
        told, at = found[arm], found[arm]["share_to_goal"]
        until = f"{at['mean']:.0%} ({at['low']:.0%} to {at['high']:.0%})" if at else "–"
        share = told["share"]
        lines.append(
            f"{arm}: reached random's best with {told['reached']} of {found['seeds']} seeds, after {until} of random's "
            f"epochs; in all {share['mean']:.0%} ({share['low']:.0%} to {share['high']:.0%}) of them"
        )
    times = found["first_step_seconds"]
    if times:
        parts = sorted(found["startup"].items(), key=lambda part: -part[1])
        lines.append(
            f"seconds from a trial's start to its first step: median {times['median']:.1f} ({times['low']:.1f} to "
            f"{times['high']:.1f}); medians of its parts: {', '.join(f'{name} {s:.1f}' for name, s in parts)}"
        )
    both = content["compared"]
    lines.append(f"epochs trained by both sweeps of the first seed: {both['epochs']}, equal: {both['equal']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
