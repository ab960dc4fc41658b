"""What a challenger must show to become champion: conditions on its test figures, each told in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ember_platform.config import GateConfig


@dataclass(frozen=True)
class Check:
    """One condition of the gate and how it came out."""

    name: str
    passed: bool
    message: str


def passes_gate(
    metrics: Mapping[str, float], champion_metrics: Mapping[str, float] | None, gate: GateConfig
) -> list[Check]:
    """Every condition of the gate; the challenger passes where all are passed.

    A figure that was not measured does not pass. Without a champion only the thresholds count.
    """
    checks = [_compared(metrics, champion_metrics, gate)]
    for sign, bounds in (("at least", gate.at_least), ("at most", gate.at_most)):
        for name, bound in sorted(bounds.items()):
            value = metrics.get(name)
            if value is None:
                checks.append(Check(name, False, f"{name} was not measured; {sign} {bound} is asked"))
                continue
            passed = value >= bound if sign == "at least" else value <= bound
            checks.append(Check(name, passed, f"{name} is {value:.4f}; {sign} {bound} is asked"))
    return checks


def _compared(metrics: Mapping[str, float], champion: Mapping[str, float] | None, gate: GateConfig) -> Check:
    name, value = gate.metric, metrics.get(gate.metric)
    label = f"better {name}"
    if value is None:
        return Check(label, False, f"{name} was not measured")
    if champion is None:
        return Check(label, True, f"{name} is {value:.4f}; there is no champion to beat")
    if name not in champion:
        return Check(label, False, f"{name} of the champion was not measured; evaluate it on the same test split")
    bar = champion[name] + gate.min_gain
    return Check(label, value > bar, f"{name} is {value:.4f}; more than {bar:.4f} is asked (the champion's + min_gain)")
