"""Which failures are tried again, how they are told, and when there were too many."""

from __future__ import annotations

import pytest
import ray.exceptions
import torch
import torch.distributed as dist

from ember_platform.train.endurance import Endurance
from ember_platform.train.faults import TrainingError, told, transient


def of_task(cause: Exception) -> Exception:
    """What `ray.get` raises for a task that raised `cause`."""
    error: Exception = ray.exceptions.RayTaskError("task", "traceback", cause).as_instanceof_cause()
    return error


def from_exchange() -> Exception:
    """An error out of a collective, as a neighbour's end gives one: a RuntimeError like any other."""
    code = compile("raise RuntimeError('reset by peer')", "/lib/torch/distributed/distributed_c10d.py", "exec")
    try:
        exec(code, {})
    except RuntimeError as error:
        return error
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        ConnectionResetError(),
        MemoryError(),
        dist.DistBackendError("connection closed by peer"),
        ray.exceptions.ActorDiedError(),
        RuntimeError("CUDA error: device lost"),
        of_task(OSError("no space")),
    ],
    ids=repr,
)
def test_what_surroundings_do_is_tried_again(error: Exception) -> None:
    assert transient(error)


def test_an_error_out_of_the_exchange_is_the_neighbour_s() -> None:
    assert transient(from_exchange())
    assert not transient(RuntimeError("reset by peer"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("chain"),
        AssertionError(),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        TrainingError("stage 3"),
        of_task(ValueError("bad")),
    ],
    ids=repr,
)
def test_what_code_does_is_not(error: Exception) -> None:
    assert not transient(error)


def test_an_error_is_told_in_a_line_with_its_place() -> None:
    try:
        torch.zeros(2) @ torch.zeros(3)
    except RuntimeError as error:
        line = told(error)
    assert line.startswith("RuntimeError: ")
    assert "(test_faults.py:" in line
    assert "\n" not in line
    assert told(of_task(ValueError("two\nlines"))) == "ValueError: two lines"


def test_failures_count_from_the_last_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    endurance = Endurance(3, 2)
    for _ in range(2):
        endurance.after_exception(None, {1: OSError("gone")})
    endurance.after_report(None, [{}], None)  # a report without a checkpoint makes nothing good
    with pytest.raises(TrainingError, match=r"3 failures in a row.*max_failures: 2.*rank 1: OSError: gone"):
        endurance.after_exception(None, {1: OSError("gone")})
    endurance.after_report(None, [{}], object())
    endurance.after_exception(None, {0: OSError("gone")})
    assert "stage 3: workers failed (rank 0: OSError: gone)" in capsys.readouterr().out


def test_there_may_be_no_limit() -> None:
    endurance = Endurance(3, -1)
    for _ in range(50):
        endurance.after_exception(None, {0: OSError("gone")})


def test_a_fault_of_the_code_ends_the_run_whatever_else_failed() -> None:
    with pytest.raises(TrainingError, match="the loss"):
        Endurance(3, -1).after_exception(None, {0: OSError("gone"), 1: TrainingError("the loss")})
