"""What every use of Ray Data here needs: a cluster to run on, and quiet."""

from __future__ import annotations

import logging

import ray

from ember_platform.config import RunConfig


def ensure_ray(config: RunConfig) -> None:
    """Use the cluster that this process is connected to, else connect as `cluster.address` says.

    Raises:
        ConnectionError: `cluster.address` names a cluster that cannot be reached.
    """
    if not ray.is_initialized():
        ray.init(address=config.cluster.address, log_to_driver=True, logging_level=logging.WARNING)


def quiet() -> None:
    """No progress bars of Ray Data: the jobs print their own lines."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
