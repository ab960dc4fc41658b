"""Which precision a processor can train in."""

from __future__ import annotations

from pathlib import Path

_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86 with AVX-512, x86 with AMX, ARM


class PrecisionError(ValueError):
    """A precision that the processor does not have."""


def cpu_has_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this machine's processor multiplies bf16 matrices itself; emulation would be slower than fp32."""
    path = Path(cpuinfo)
    if not path.is_file():
        return False
    for line in path.read_text(errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return not _CPU_FLAGS.isdisjoint(flags.split())
    return False


def resolve_precision(wanted: str, device: str, field: str = "precision") -> str:
    """`bf16` or `fp32` for this device.

    Args:
        wanted: auto, bf16 or fp32.
        device: cpu or cuda.
        field: dotted name of the setting, for the error.

    Raises:
        PrecisionError: bf16 is demanded and the processor has none.
    """
    if wanted == "fp32":
        return "fp32"
    if device == "cuda":
        import torch

        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = cpu_has_bf16()
    if wanted == "bf16" and not able:
        raise PrecisionError(
            f"{field}: bf16 is asked for, and the {device} of this worker has none; set it to auto or fp32"
        )
    return "bf16" if able else "fp32"
