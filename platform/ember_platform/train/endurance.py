"""What Ray Train's controller is told about failures: which end the run, and when there were too many."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from ember_platform.train.faults import TrainingError, told


class Endurance(UserCallback):
    """Ray restarts the workers after any failure; this says where that would be in vain.

    An error that trying again would not cure (`faults.transient`) ends the run at once, and so do more than `limit`
    failures with no new checkpoint between them. Raised from a callback, it ends the controller with that cause.
    """

    def __init__(self, stage: int, limit: int) -> None:
        self.stage, self.limit, self.failures = stage, limit, 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """A new checkpoint: what failed before it is made up for."""
        if checkpoint is not None:
            self.failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count the failure.

        Raises:
            TrainingError: the workers should not be started again.
        """
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, TrainingError):
                raise error
        self.failures += 1
        rank, error = min(worker_exceptions.items())
        cause = f"rank {rank}: {told(error).splitlines()[0]}"
        if 0 <= self.limit < self.failures:
            raise TrainingError(
                f"{self.failures} failures in a row without a new checkpoint (cluster.max_failures: {self.limit}); "
                f"the last: {cause}"
            )
        print(f"stage {self.stage}: workers failed ({cause}); going on from the last checkpoint", flush=True)
