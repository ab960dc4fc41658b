"""Shares of a step that wait for each other on one worker."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ember_platform.train import shares


def test_each_share_sees_all_rows_and_its_own_random_numbers() -> None:
    order: list[str] = []

    def forward(batch: dict[str, Any], gather: Any) -> dict[str, torch.Tensor]:
        first = torch.rand(1)
        order.append(f"{batch['name']} sends")
        everyone = gather(batch["rows"])
        numbers = gather(torch.tensor([gather.place]))
        order.append(f"{batch['name']} ends")
        return {"loss": everyone.sum() * batch["rows"].sum(), "numbers": numbers, "drawn": first + torch.rand(1)}

    rows = [torch.ones(n, 2, requires_grad=True) for n in (1, 2, 3)]
    batches = [{"name": name, "rows": part} for name, part in zip("abc", rows, strict=True)]
    losses = shares.run(forward, batches, None, lambda number: torch.manual_seed(number) and None)
    assert order == ["a sends", "b sends", "c sends", "a ends", "b ends", "c ends"]
    assert [float(part["loss"]) for part in losses] == [24.0, 48.0, 72.0]
    assert all(part["numbers"].tolist() == [0, 1, 2] for part in losses)
    for number, part in enumerate(losses):
        torch.manual_seed(number)
        assert torch.equal(part["drawn"], torch.rand(1) + torch.rand(1))
    sum(part["loss"] for part in losses).backward()
    # d/dx of (sum of all) · (sum of all): every share's rows are in every share's loss.
    assert all(torch.equal(part.grad, torch.full_like(part, 24.0)) for part in rows)


def test_the_error_of_a_share_is_the_step_s() -> None:
    def forward(batch: dict[str, Any], gather: Any) -> dict[str, torch.Tensor]:
        if batch["bad"]:
            raise ValueError("bad share")
        return {"loss": gather(torch.ones(1)).sum()}

    with pytest.raises(ValueError, match="bad share"):
        shares.run(forward, [{"bad": False}, {"bad": True}], None, lambda number: None)


def test_shares_that_do_not_exchange_alike_are_an_error() -> None:
    def forward(batch: dict[str, Any], gather: Any) -> dict[str, torch.Tensor]:
        return {"loss": gather(torch.ones(1)).sum() if batch["asks"] else torch.ones(())}

    with pytest.raises(RuntimeError, match="on some shares of a step and not on others"):
        shares.run(forward, [{"asks": True}, {"asks": False}], None, lambda number: None)
