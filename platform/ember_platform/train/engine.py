"""The DeepSpeed engine under the loop: optimizer, precision, partitioning, on CPU and GPU from the same settings.

Precision: bf16 is `torch.autocast` around fp32 weights, entered inside the module that DeepSpeed sees. Measured on
two gloo workers with a 2.6M-parameter decoder (median ms a step, ZeRO 0 / 1 / 2): 167 / 150 / 161 so, against 150 /
205 / 354 with DeepSpeed's `torch_autocast` section, which casts gradients to bf16 for the reduction, and 178 / 214 / –
with its `bf16` section. So fp32 weights, moments and reductions cost nothing here, and lose nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ember_platform.train import collectives, engine_state, shares
from ember_platform.train.optimizer import make_optimizer, set_rate

if TYPE_CHECKING:
    from embervlm.stages.base import Gather


@dataclass(frozen=True)
class EngineSettings:
    """What the engine needs of a stage's configuration.

    `micro_batch` is the samples of one forward pass of one worker, `accumulation` the backward passes of one step on
    one worker; `precision` is bf16 or fp32, resolved. `pretrained_rate` is the pretrained parameters' learning rate
    as a share of the others'.
    """

    micro_batch: int
    accumulation: int
    weight_decay: float
    clip: float
    precision: str
    zero_stage: int
    optimizer: str = "adamw"
    pretrained_rate: float = 1.0


class _Autocast(nn.Module):
    """A stage's module under autocast, so that DeepSpeed only ever sees fp32 weights and an fp32 loss."""

    def __init__(self, module: nn.Module, device: torch.device, enabled: bool) -> None:
        super().__init__()
        self.module = module
        self._device = device.type
        self._enabled = enabled

    def forward(
        self, batches: Sequence[shares.Batch], progress: float, gather: Gather | None, begin: Callable[[int], None]
    ) -> list[shares.Losses]:
        def one(batch: shares.Batch, gather: Gather | None) -> shares.Losses:
            with autocast(self._device, self._enabled):
                losses: shares.Losses = self.module(batch, progress, gather)
            return losses

        return shares.run(one, batches, gather, begin)


def autocast(device: str, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast of that device type, or nothing."""
    return torch.autocast(device, torch.bfloat16) if enabled else contextlib.nullcontext()


def deepspeed_config(settings: EngineSettings, trainable: int) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings.

    Args:
        settings: the stage's.
        trainable: parameters that train; buckets need not be larger.
    """
    bucket = min(-(-trainable // 4096) * 4096, 1 << 26)  # DeepSpeed wants a multiple of twice the workers
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage:
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket, "overlap_comm": False}
    if settings.zero_stage == 3:
        zero |= {"stage3_max_live_parameters": 10**9, "stage3_prefetch_bucket_size": bucket}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        # Without partitioning the engine clips parameter by parameter; `Engine.step` does it in one call instead.
        "gradient_clipping": settings.clip if settings.zero_stage else 0.0,
        "zero_optimization": zero,
        # The optimizer is ours (torch's), which DeepSpeed calls untested.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**12,
    }


class Engine:
    """A module with its optimizer, in the precision and partitioning that the settings name.

    Raises:
        ValueError: no parameter of the module trains.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: EngineSettings,
        device: torch.device,
        pretrained: Iterable[nn.Parameter] = (),
    ) -> None:
        deepspeed = _deepspeed(device)
        self.settings = settings
        self.device = device
        self._module = module
        self._known = [frozenset(vars(parameter)) for parameter in module.parameters()]
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError("no parameter of this stage trains; its `prepare` froze everything")
        # Before ZeRO-3 takes the parameters apart: afterwards they have no shape of their own.
        optimizer = make_optimizer(
            settings.optimizer, module, settings.weight_decay, pretrained, settings.pretrained_rate
        )
        trainable = sum(p.numel() for p in self._parameters)
        wrapped = _Autocast(module, device, settings.precision == "bf16").to(device)
        with _own_broadcast(deepspeed):
            self._engine, _, _, _ = deepspeed.initialize(
                model=wrapped,
                optimizer=optimizer,
                config=deepspeed_config(settings, trainable),
            )
        self._passes = 0  # backward passes of the step under way
        self._gather: Gather | None = collectives.gather_rows if collectives.world_size() > 1 else None

    def forward(
        self, batches: Sequence[shares.Batch], progress: float, begin: Callable[[int], None]
    ) -> list[shares.Losses]:
        """Losses of micro-batches that run together (CPU tensors are moved to the device).

        `begin` is called with a micro-batch's number, here, right before it runs.
        """
        moved = [
            {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
            for batch in batches
        ]
        # Its own count of passes goes on at `step`, which comes after all of them: then no backward would exchange.
        self._engine.set_gradient_accumulation_boundary(self._passes + 1 == self.settings.accumulation)
        losses: list[shares.Losses] = self._engine(moved, progress, self._gather, begin)
        return losses

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of what ran together; the last of a step also averages them over the ranks."""
        self._engine.backward(loss)
        self._passes += 1

    def step(self, learning_rate: float) -> float:
        """After every backward of a step: update the weights.

        Returns:
            The gradient norm before clipping.
        """
        set_rate(self._engine.optimizer, learning_rate)
        norm = 0.0
        if not self.settings.zero_stage:
            norm = float(nn.utils.clip_grad_norm_(self._parameters, self.settings.clip or float("inf")))
        self._engine.step()
        self._passes = 0
        if self.settings.zero_stage:
            norm = float(self._engine.get_global_grad_norm() or 0.0)
        return norm

    def snapshot(self) -> Callable[[Path], None]:
        """Copy this rank's share of weights and optimizer; what is returned writes the copy into a folder."""
        copy = engine_state.snapshot(self._module, self._engine.optimizer, self.settings.zero_stage)
        name = engine_state.file_name(collectives.rank(), collectives.world_size())
        return lambda folder: copy.write(folder / name)

    def load(self, folder: Path) -> None:
        """Take weights and optimizer from a checkpoint, whatever number of workers and ZeRO stage wrote it.

        Raises:
            CheckpointError: it is not of this model.
        """
        engine_state.restore(folder, self._module, self._engine.optimizer, self.settings.zero_stage)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """While inside, every parameter of the module is whole on every rank (ZeRO-3 gathers them)."""
        if self.settings.zero_stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self._engine.module.parameters()), modifier_rank=None):
            yield

    def close(self) -> None:
        """Take DeepSpeed off the module, so that another engine can be built on it.

        With ZeRO-3 its parameters are whole again afterwards, and parameters like any other.
        """
        if self.settings.zero_stage < 3:
            self._destroy()
            return
        parameters = list(self._module.parameters())
        with self.whole():
            values = [parameter.detach().clone() for parameter in parameters]
        self._destroy()
        for part in self._engine.module.modules():
            if "_original_parameters" in vars(part):
                part._parameters = part._original_parameters
                del part._original_parameters
        for parameter, value, known in zip(parameters, values, self._known, strict=True):
            for name in vars(parameter).keys() - known:
                delattr(parameter, name)
            parameter.data = value

    def _destroy(self) -> None:
        """Once and now. DeepSpeed 0.19 does it again when the garbage collector comes, and by then would take the
        parameters' places in the flat weights (`_hp_mapping`) from the engine that was built after this one."""
        self._engine.destroy()
        self._engine.destroy = lambda: None


@contextlib.contextmanager
def _own_broadcast(deepspeed: Any) -> Iterator[None]:
    """DeepSpeed 0.19 broadcasts parameters as bytes and fails on scalars such as a logit scale; ours does not."""
    partitioned = deepspeed.zero.Init

    def broadcast_all(engine: Any) -> None:
        for tensor in (*engine.module.parameters(), *engine.module.buffers()):
            if not hasattr(tensor, "ds_id"):  # those of ZeRO-3 were broadcast when they were taken apart
                _broadcast(tensor)

    def broadcast_one(context: Any, parameter: Any) -> None:
        context._convert_to_deepspeed_param(parameter)
        _broadcast(parameter)
        parameter.partition()

    theirs = deepspeed.DeepSpeedEngine._broadcast_model, partitioned._zero_init_param
    deepspeed.DeepSpeedEngine._broadcast_model, partitioned._zero_init_param = broadcast_all, broadcast_one
    try:
        yield
    finally:
        deepspeed.DeepSpeedEngine._broadcast_model, partitioned._zero_init_param = theirs


def _broadcast(tensor: Tensor) -> None:
    """Rank 0's values to all ranks."""
    if collectives.world_size() > 1:
        torch.distributed.broadcast(tensor.data, src=0)


def ensure_process_group(device: torch.device) -> None:
    """A process group of one, where nobody made one (runs in process, tests); nothing otherwise."""
    if torch.distributed.is_initialized():
        return
    os.environ.setdefault("LOCAL_RANK", "0")
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )


def _deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told which accelerator it has, with a process group, and without what would compile code at start."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    ensure_process_group(device)
    import deepspeed

    # Its shared-memory all-reduce serves inference only, and building it takes half a minute and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
