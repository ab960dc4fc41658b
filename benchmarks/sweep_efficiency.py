"""What TPE and ASHA save: the epochs they need for the best of a random search that trains every trial to the end.

    python cluster/local.py submit -- python benchmarks/sweep_efficiency.py --space tune/stage3.yaml \
        --output_dir outputs/sweeps --resume_from outputs/stage2/final --seeds 3

For each seed there are two sweeps of equally many trials from the same model, on the same records: `random` (no
scheduler) and `tpe` (with ASHA). Told are the epochs of each, the epochs after which `tpe` had first reached the best
of `random`, and what a trial costs before its first step. Epochs are those of training records that were trained on,
so what a stopped trial did after its last validation counts. A benchmark that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ARMS: dict[str, list[str]] = {
    "random": ["search.method=random", "scheduler.method=none"],
    "tpe": ["search.method=tpe", "scheduler.method=asha"],
}


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--space", default="tune/stage3.yaml", help="search space")
    made.add_argument("--config", help="base configuration (default: the one that the search space names)")
    made.add_argument("--output_dir", default="outputs/sweeps", help="where everything is left")
    made.add_argument("--resume_from", help="model that every trial starts from (default: the stage before)")
    made.add_argument("--trials", type=int, help="trials of each sweep")
    made.add_argument("--epochs", type=int, help="epochs of a full training")
    made.add_argument("--seeds", type=int, default=3, help="pairs of sweeps")
    made.add_argument("overrides", nargs="*", metavar="field=value", help="fields of the base configuration, dotted")
    return made


def main() -> int:
    """Run the pairs, print a table, write `sweep_efficiency.json`."""
    given = parser().parse_intermixed_args()
    from ember_platform.storage import absolute

    seeds = [pair(given, seed) for seed in range(given.seeds)]
    content = {"seeds": seeds, "summary": summary(seeds)}
    path = Path(absolute(given.output_dir), "sweep_efficiency.json")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table(content)))
    print(f"→ {path}", flush=True)
    return 0


def pair(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Both sweeps of a seed, and what they say together."""
    made = {arm: run(given, arm, seed) for arm in ARMS}
    goal = made["random"]["best"]
    reached = next((row["paid"] for row in made["tpe"]["course"] if row["best"] >= goal), None)
    full = made["random"]["epochs"]
    return {
        "seed": seed,
        **made,
        "goal": goal,
        "epochs_to_goal": reached,
        "share_to_goal": reached / full if reached is not None else None,
        "share": made["tpe"]["epochs"] / full,
    }


def run(given: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """One sweep, or what is left of it."""
    from ember_platform.data.manifest import Manifest
    from ember_platform.storage import absolute
    from ember_platform.tuning import analysis
    from ember_platform.tuning.ledger import Ledger
    from ember_platform.tuning.run import folder_of, run_sweep
    from ember_platform.tuning.space import load_sweep

    changes = [*ARMS[arm], f"search.seed={seed}"]
    changes += [f"{name}={getattr(given, name)}" for name in ("trials", "epochs") if getattr(given, name)]
    settings = [f"output_dir={absolute(given.output_dir)}", *given.overrides]
    sweep, base = load_sweep(given.space, changes, settings, given.config)
    name = f"{arm}-{seed}"
    begun = Ledger(folder_of(base, name)).header() is not None
    parent = absolute(given.resume_from) if given.resume_from else None
    outcome = run_sweep(sweep, base, name, resume=begun, resume_from=parent, register=False)
    if not outcome.complete:
        raise KeyboardInterrupt
    rows = Manifest.load(base.data.dir).rows(sweep.stage, "train")
    sign = sweep.objectives[0].sign()
    paid = analysis.paid_epochs(outcome.records, rows)
    told = analysis.best_so_far(outcome.records, sign)
    # What was trained after a last validation is spread evenly over the course.
    course = [{"paid": one.spent * paid / len(told), "best": sign * one.best} for one in told]
    startup = [s for record in outcome.records if (s := record.first_step_seconds()) is not None]
    parts = [record.startup for record in outcome.records if record.startup]
    return {
        "best": max(row["best"] for row in course),
        "epochs": paid,
        "validated": len(told),
        "course": course,
        "stopped": sum(record.status == "stopped" for record in outcome.records),
        "failed": sum(record.status == "failed" for record in outcome.records),
        "first_step_seconds": startup,
        "startup": {
            key: statistics.median(part.get(key, 0.0) for part in parts) for key in (parts[0] if parts else {})
        },
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over the seeds; a seed whose goal was not reached is counted, not averaged."""
    reached = [one["share_to_goal"] for one in seeds if one["share_to_goal"] is not None]
    return {
        "reached": len(reached),
        "seeds": len(seeds),
        "share_to_goal": spread(reached),
        "share": spread([one["share"] for one in seeds]),
        "gain": spread([one["tpe"]["best"] - one["goal"] for one in seeds]),
        "first_step_seconds": spread([s for one in seeds for arm in ARMS for s in one[arm]["first_step_seconds"]]),
    }


def spread(values: list[float]) -> dict[str, float] | None:
    """Mean, least and greatest; None of nothing."""
    return {"mean": statistics.mean(values), "low": min(values), "high": max(values)} if values else None


def table(content: dict[str, Any]) -> list[str]:
    """The result as text."""
    lines = ["seed  random: best, epochs   tpe+asha: best, epochs   of them until random's best"]
    for one in content["seeds"]:
        a, b, reached = one["random"], one["tpe"], one["epochs_to_goal"]
        until = f"{reached:6.1f} ({one['share_to_goal']:.0%})" if reached is not None else "never"
        lines.append(
            f"{one['seed']:4}  {abs(a['best']):12.4f} {a['epochs']:7.1f}   {abs(b['best']):14.4f} {b['epochs']:7.1f}"
            f"   {until}"
        )
    found = content["summary"]
    lines.append(f"reached with {found['reached']} of {found['seeds']} seeds")
    for key, text in (
        ("share_to_goal", "share of random's epochs until its best"),
        ("share", "share of random's epochs in all"),
        ("first_step_seconds", "seconds from a trial's start to its first step"),
    ):
        if found[key]:
            lines.append(f"{text}: {found[key]['mean']:.2f} ({found[key]['low']:.2f} to {found[key]['high']:.2f})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
