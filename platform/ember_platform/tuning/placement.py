"""How many trials a cluster carries at once, so that each has all its workers or has not begun."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ember_platform.config import RunConfig
from ember_platform.train.plan import PlanError

#: Logical CPUs of a trial's own process where that only waits and reads files.
_WATCH_CPUS = 0.01


def alone(config: RunConfig) -> bool:
    """Whether a trial trains in its own process, which the next trial uses again: where it has one worker.

    Several are Ray Train's, which starts them, and their imports, for every training anew.
    """
    return config.cluster.num_workers == 1


def process(config: RunConfig) -> dict[str, float]:
    """Logical resources of a trial's own process."""
    if not alone(config):
        return {"CPU": _WATCH_CPUS}
    return {"CPU": config.cluster.cpus_per_worker, **({"GPU": config.cluster.gpus} if config.cluster.gpus else {})}


def need(config: RunConfig) -> dict[str, float]:
    """Logical resources of one trial: its process, its workers, and what reads their data beside them."""
    cluster, found = config.cluster, process(config)
    found["CPU"] += float(cluster.num_workers) if config.data.loader == "ray_data" else 0.5
    if not alone(config):
        found["CPU"] += cluster.num_workers * cluster.cpus_per_worker
        found |= {"GPU": cluster.num_workers * cluster.gpus} if cluster.gpus else {}
    return found


def room(config: RunConfig, have: Mapping[str, float], asked: int | str, cores: float) -> int:
    """Trials at once: as many as asked for; or as fit, and on processors no more than have a core for each worker.

    Ray Train takes a trial's workers all together or not at all, so trials never hold a part each and wait for the
    rest; but one that gets none gives up after a while. Hence no more begin than have room.

    Raises:
        PlanError: there is not room for one, or not for as many as asked for.
    """
    needed = need(config)
    fits = min(math.floor(have.get(name, 0.0) / value + 1e-9) for name, value in needed.items())
    # A small cluster counts more logical CPUs than it has cores; trials that share a core only share its memory.
    most = fits if config.cluster.use_gpu else max(1, int(cores // config.cluster.num_workers))
    wanted = min(fits, most) if asked == "auto" else int(asked)
    if fits < 1 or wanted > fits:
        what = ", ".join(
            f"{name}: {value:g} each, the cluster has {have.get(name, 0.0):g}" for name, value in needed.items()
        )
        raise PlanError(
            f"concurrent: {'one trial has' if fits < 1 else f'{wanted} trials at once have'} no room ({what}); use "
            f"{'fewer cluster.num_workers' if fits < 1 else f'at most {fits}'}, or a cluster with more logical CPUs"
        )
    return wanted


def threads(config: RunConfig, cores: float, trials: int) -> int:
    """Compute threads of each worker where the trials at once share the cluster's cores."""
    if config.cluster.threads_per_worker != "auto":
        return int(config.cluster.threads_per_worker)
    return max(1, int(cores // (trials * config.cluster.num_workers)))
