"""The pure parts: schedule, precision, parameter groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ember_platform.train.engine import EngineSettings, deepspeed_config
from ember_platform.train.optimizer import hidden_matrices, make_optimizer, parameter_groups, set_rate, shared_out
from ember_platform.train.precision import PrecisionError, cpu_has_bf16, resolve_precision
from ember_platform.train.schedule import learning_rate, seed_step, step_seed


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [learning_rate(step, 100, 1e-3, 0.1, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)


def test_a_learning_rate_that_begins_anew_is_a_schedule_after_another() -> None:
    found = [learning_rate(step, 20, 1e-3, 0.25, 0.02, (4, 12)) for step in range(20)]
    parts = [[learning_rate(step, length, 1e-3, 0.25, 0.02) for step in range(length)] for length in (4, 8, 8)]
    assert found == [rate for part in parts for rate in part]
    assert found[3] == found[11] == found[19] == pytest.approx(2e-5)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_learning_rate_of_very_short_runs_is_positive(total: int, warmup: float) -> None:
    assert all(0 < learning_rate(step, total, 1.0, warmup, 0.1) <= 1.0 for step in range(total + 1))


def test_a_step_s_random_numbers_depend_on_the_step_alone() -> None:
    seed_step(1, 3, 0, 7, 0)
    first = torch.rand(3)
    torch.rand(100)
    seed_step(1, 3, 0, 7, 0)
    assert torch.equal(first, torch.rand(3))
    seeds = {step_seed(s, n, p, t, r) for s in (0, 1) for n in (0, 3) for p in (0, 1) for t in (0, 1) for r in (0, 1)}
    assert len(seeds) == 32


def test_bf16_is_read_from_the_processor_s_flags(tmp_path: Path) -> None:
    for flags, expected in (("fpu avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx2", False)):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor : 0\nflags\t\t: {flags}\n")
        assert cpu_has_bf16(str(file)) is expected
    assert cpu_has_bf16(str(tmp_path / "none")) is False


def test_bf16_where_there_is_none_is_an_error_and_auto_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ember_platform.train.precision.cpu_has_bf16", lambda: False)
    assert resolve_precision("auto", "cpu") == "fp32"
    with pytest.raises(PrecisionError, match=r"stages\.3\.precision: bf16"):
        resolve_precision("bf16", "cpu", "stages.3.precision")
    monkeypatch.setattr("ember_platform.train.precision.cpu_has_bf16", lambda: True)
    assert resolve_precision("auto", "cpu") == resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_only_matrices_decay_and_only_what_trains_is_listed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1))
    module[2].requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed, plain = parameter_groups(trained, 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 3
    assert plain["weight_decay"] == 0.0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_engine_s_configuration_follows_the_settings(stage: int) -> None:
    config = deepspeed_config(EngineSettings(4, 2, 0.0, 0.5, "bf16", stage), 1001)
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 2
    assert config["zero_optimization"]["stage"] == stage
    # Without partitioning the engine's own clipping is off: `Engine.step` clips.
    assert config["gradient_clipping"] == (0.5 if stage else 0.0)
    assert config["zero_optimization"].get("reduce_bucket_size", 0) % 2 == 0


def small_language() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Embedding(40, 32), torch.nn.Linear(32, 24), torch.nn.Linear(24, 1))


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    module = small_language()
    assert [id(p) for p in hidden_matrices(module)] == [id(module[1].weight)]
    module[1].weight.grad = torch.randn(24, 32)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = make_optimizer("muon", module, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    moved = module[1].weight.detach() - before[1]
    # An orthogonal update: every singular value is about the same, 0.2 * sqrt(32) * lr.
    singular = torch.linalg.svdvals(moved) / (0.2 * 32**0.5 * 0.01)
    assert float(singular.min()) > 0.5
    assert float(singular.max()) < 1.5
    same = [torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True)]
    assert same == [True, False, True, True, True]  # only one parameter had a gradient
    with pytest.raises(ValueError, match="'sgd' is not one of adamw, muon"):
        make_optimizer("sgd", module, 0.0)


def small_eyes() -> torch.nn.Sequential:
    """Convolutions of every sort; only the third is a matrix."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.Conv2d(16, 16, 1, groups=16),
        torch.nn.Conv2d(16, 24, 1),
        torch.nn.BatchNorm2d(24),
        torch.nn.Conv2d(24, 8, 1),
    )


def test_muon_takes_convolutions_of_one_place_as_matrices() -> None:
    torch.manual_seed(0)
    kernel, flat = small_eyes(), torch.nn.Linear(16, 24)
    assert [id(p) for p in hidden_matrices(kernel)] == [id(kernel[2].weight)]
    flat.weight.data.copy_(kernel[2].weight.data.flatten(1))
    eyes, line = make_optimizer("muon", kernel, 0.1), make_optimizer("muon", flat, 0.1)
    for _ in range(3):
        kernel(torch.randn(2, 3, 8, 8)).square().mean().backward()
        gradient = kernel[2].weight.grad
        assert gradient is not None
        flat.weight.grad = gradient.flatten(1).clone()
        for optimizer in (eyes, line):
            set_rate(optimizer, 1e-2)
            optimizer.step()
        assert kernel[2].weight.shape == kernel[2].weight.grad.shape == (24, 16, 1, 1)
        assert torch.equal(kernel[2].weight.grad, gradient)
        assert eyes.state[kernel[2].weight]["momentum_buffer"].shape == (24, 16, 1, 1)
        assert torch.equal(kernel[2].weight.flatten(1), flat.weight)
        kernel.zero_grad()


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 5))
def test_work_is_shared_out_evenly(costs: list[int], parts: int) -> None:
    owners = shared_out(costs, parts)
    assert len(owners) == len(costs)
    taken = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == part) for part in range(parts)]
    assert sum(taken) == sum(costs)
    assert max(taken) - min(taken) <= max(costs, default=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_pretrained_parts_move_by_their_share_of_the_rate(name: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.LayerNorm(32), torch.nn.Linear(32, 32))
    new, old = list(module[2].parameters()), [*module[0].parameters(), *module[1].parameters()]
    optimizer = make_optimizer(
        name, module, 0.1, pretrained=[*old, torch.nn.Parameter(torch.ones(2))], pretrained_rate=0.05
    )
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in module.parameters()), "each once, and nothing else"
    set_rate(optimizer, 1e-2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in old} == {1e-2 * 0.05}
    assert {rates[id(p)] for p in new} == {1e-2}
    before = module[0].weight.detach().clone()
    module(torch.randn(8, 32)).square().mean().backward()
    optimizer.step()
    moved = (module[0].weight.detach() - before).abs().mean()
    assert 1e-5 < float(moved) < 1e-3
    same = make_optimizer(name, module, 0.1, pretrained=old)
    assert len(same.param_groups) == len(make_optimizer(name, module, 0.1).param_groups)


def some_words(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 40, (8,), generator=generator)


def some_pictures(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=generator)


@pytest.mark.parametrize(("make", "sample"), [(small_language, some_words), (small_eyes, some_pictures)])
def test_a_loaded_muon_goes_on_as_if_it_had_not_stopped(
    make: Callable[[], torch.nn.Sequential], sample: Callable[[torch.Generator], torch.Tensor]
) -> None:
    def walk(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            shown = sample(generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (step + 1)
            optimizer.zero_grad()
            module(shown).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = make()
    first = make_optimizer("muon", whole, 0.1)
    walk(whole, first, range(3))
    resumed = make()
    resumed.load_state_dict(whole.state_dict())
    second = make_optimizer("muon", resumed, 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    walk(whole, first, range(3, 6))
    walk(resumed, second, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
