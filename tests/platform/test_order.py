"""The order of samples, by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ember_platform.data.order import Plan, epoch_order, epoch_samples, restart_steps, share_edges, steps_per_epoch

lengths = st.lists(st.integers(0, 400), max_size=300)
seeds = st.integers(0, 2**31 - 1)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 40), seeds, st.integers(0, 50), st.integers(1, 20))
def test_every_index_once_in_batches_of_even_size(
    sizes: list[int], batch_size: int, seed: int, epoch: int, window: int
) -> None:
    order = epoch_order(sizes, batch_size, seed, epoch, window=window)
    assert sorted(i for batch in order for i in batch) == list(range(len(sizes)))
    assert len(order) == steps_per_epoch(len(sizes), batch_size)
    if order:
        counts = [len(batch) for batch in order]
        assert max(counts) <= batch_size
        assert max(counts) - min(counts) <= 1
    assert order == epoch_order(sizes, batch_size, seed, epoch, window=window)


def test_epochs_seeds_and_phases_differ() -> None:
    sizes = list(range(100))
    orders = [epoch_order(sizes, 8, *key) for key in ((0, 0), (0, 1), (1, 0))] + [epoch_order(sizes, 8, 0, 0, salt="b")]
    assert len({str(order) for order in orders}) == 4


def test_the_order_is_this_one() -> None:
    """Written down, so that no version of a library changes it unseen: a resumed run depends on it."""
    assert epoch_order([5, 1, 4, 2, 3, 9, 8], 3, 7, 2) == [[6, 0, 5], [3, 1], [2, 4]]


def test_batches_are_bucketed_by_length() -> None:
    sizes = np.random.default_rng(0).integers(10, 300, 2000)
    order = epoch_order(sizes, 32, 0, 0)
    spread = np.mean([sizes[batch].max() - sizes[batch].min() for batch in order])
    plain = np.mean([sizes[batch].max() - sizes[batch].min() for batch in epoch_order(sizes, 32, 0, 0, window=1)])
    assert spread < plain / 5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 16))
def test_shares_join_to_the_batch_for_any_number_of_workers(count: int, parts: int) -> None:
    edges = share_edges(count, parts)
    assert edges[0] == 0
    assert edges[-1] == count
    assert set(np.diff(edges)) <= {count // parts, -(-count // parts)}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 3), seeds)
def test_mixing_repeats_and_rotates(a: int, b: int, weight: float, seed: int) -> None:
    sources = ["a"] * a + ["b"] * b
    taken = np.concatenate([epoch_samples(sources, {"b": weight}, seed, epoch) for epoch in range(4)])
    counts = np.bincount(taken, minlength=a + b)
    assert set(counts[:a]) == {4}
    if b:
        assert abs(counts[a:].sum() - 4 * weight * b) < 1 + 1e-6
        assert counts[a:].max() - counts[a:].min() <= 1


def test_a_stage_s_epochs_are_steps_of_its_phases() -> None:
    plans = [Plan(np.arange(10), ["a"] * 10, 4, epochs, 0, "s", {}) for epochs in (2, 3)]
    # Three steps an epoch; the end of the first phase and of the stage begin nothing anew.
    assert restart_steps(plans, [1, 2, 3, 4, 5, 9]) == [(3,), (3, 6)]
    assert restart_steps(plans, []) == [(), ()]


def test_a_plan_counts_its_steps_and_stops_at_the_most() -> None:
    plan = Plan(np.arange(10), ["a"] * 10, 4, 3, 0, "x", {})
    assert plan.epoch_starts == [0, 3, 6, 9]
    assert plan.smallest_batch == 3
    short = Plan(np.arange(10), ["a"] * 10, 4, 3, 0, "x", {}, max_steps=4)
    assert short.epoch_starts == [0, 3, 4]
    assert short.steps == 4
    with pytest.raises(ValueError, match="at least 1"):
        epoch_order([1], 0, 0, 0)
