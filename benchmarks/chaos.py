"""Kill a training run again and again, at random, and hold what comes out against a run that nobody disturbed.

    python benchmarks/chaos.py --kills 20 --seed 1

A private Ray cluster on the loopback address trains stage 3 on a tiny model, once undisturbed, then with workers and
the driver killed (SIGKILL) at moments that the seed draws. A dead worker is replaced by Ray Train, a dead driver by
starting the same command again. At the end are printed: kills survived, samples repeated, samples lost, whether the
weights are equal bit for bit, and the time lost per kill. `--targets` adds `node` (a machine of the cluster with all
its processes) and `cluster` (every process of it).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.killable import (
    PATIENCE_S,
    SAVE_EVERY,
    STEPS_PER_EPOCH,
    Run,
    kill_trees,
    repeated_and_lost,
    running,
    tiny_config,
    works,
)

TARGETS = ("worker", "driver", "node", "cluster")
#: Steps of the run per kill: kills come at any of them, and each costs the run at most a few.
_STEPS_PER_KILL = 4


# ---------------------------------------------------------------------------------- the chaos


@dataclass
class Outcome:
    """What a disturbed run came to."""

    kills: Counter[str]
    repeated: int
    lost: int
    equal: bool
    seconds: float
    undisturbed: float

    @property
    def lost_per_kill(self) -> float:
        """Seconds."""
        return (self.seconds - self.undisturbed) / max(1, self.kills.total())


def chaos(folder: Path, kills: int, seed: int, targets: list[str]) -> Outcome:
    """Train undisturbed, then train with kills."""
    import torch

    epochs = -(-(kills + 2) * _STEPS_PER_KILL // STEPS_PER_EPOCH)
    # Where nodes die, the head has no room for the workers.
    with running(**({"cpus": 0, "nodes": 2} if "node" in targets else {})) as cluster:
        runs = [
            Run(folder / name, cluster, tiny_config(folder / name / "out", folder / "data", epochs), folder / "begin")
            for name in ("warm-up", "undisturbed", "disturbed")
        ]
        for run in runs[:2]:  # the first makes data and model, and pays for what only the first pays
            started = time.monotonic()
            if run.finish() != 0:
                raise RuntimeError(f"the undisturbed run failed:\n{run.tail()}")
            undisturbed = time.monotonic() - started
        started = time.monotonic()
        pace = statistics.median(row["seconds"] for row in runs[1].history()[0])
        done = disturb(runs[2], random.Random(seed), kills, targets, epochs * STEPS_PER_EPOCH, pace)
        seconds = time.monotonic() - started
        expected, found = runs[1].weights(), runs[2].weights()
        equal = expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
        return Outcome(done, *repeated_and_lost(runs[2]), equal, seconds, undisturbed)


def disturb(run: Run, draw: random.Random, kills: int, targets: list[str], steps: int, pace: float) -> Counter[str]:
    """Run a command to its end while killing; what was killed how often. `pace` is the seconds of a step."""
    done: Counter[str] = Counter()
    moments = sorted(draw.randrange(1, steps - 2 * SAVE_EVERY) for _ in range(kills))
    process = run.start()
    end = time.monotonic() + PATIENCE_S + 120 * kills
    dead: set[int] = set()
    for moment in moments:
        target = draw.choice(targets)
        delay = draw.uniform(0, 2 * pace)  # anywhere in a step, and in the writing of a checkpoint
        while True:
            alive = [e for e in run.events() if e["pid"] not in dead and works(e["pid"])]
            if alive and max(e["step"] for e in alive) >= moment:
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the run ended or hangs, after {done.total()} kills:\n{run.tail()}")
            time.sleep(0.05)
        time.sleep(delay)
        if run.done:
            break
        pids = sorted({e["pid"] for e in alive})
        dead |= set(pids)
        _kill(run, target, draw.choice(pids))
        done[target] += 1
        print(f"kill {done.total()}: {target} at step {max(e['step'] for e in alive)}", flush=True)
        if target in ("driver", "cluster"):
            process.wait()
            process = run.start()
    if process.wait(timeout=PATIENCE_S) != 0:
        raise RuntimeError(f"the run failed after {done.total()} kills:\n{run.tail()}")
    return done


def _kill(run: Run, target: str, worker: int) -> None:
    assert run.process is not None
    if target == "worker":
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    elif target == "driver":
        run.process.kill()
    elif target == "node":
        kill_trees(run.cluster.leaders.pop().pid)
        run.cluster.add_node()
    else:
        run.process.kill()
        run.cluster.kill()
        run.cluster.start()


def main() -> int:
    """Run it and print the outcome; 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments and the victims")
    parser.add_argument("--targets", default="worker,driver", help=f"some of {','.join(TARGETS)}")
    given = parser.parse_args()
    targets = given.targets.split(",")
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"--targets: {sorted(unknown)[0]!r} is not one of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="embervlm-chaos-") as scratch:
        found = chaos(Path(scratch), given.kills, given.seed, targets)
    who = ", ".join(f"{count} × {name}" for name, count in sorted(found.kills.items()))
    print(f"kills survived      {found.kills.total()} of {given.kills} ({who})")
    print(f"samples repeated    {found.repeated}")
    print(f"samples lost        {found.lost}")
    print(f"weights equal       {'yes' if found.equal else 'no'}")
    print(f"time lost per kill  {found.lost_per_kill:.1f} s (undisturbed {found.undisturbed:.1f} s)")
    print(json.dumps({**vars(found), "kills": dict(found.kills), "lost_per_kill": found.lost_per_kill}))
    whole = found.kills.total() == given.kills and found.equal and not found.repeated + found.lost
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
