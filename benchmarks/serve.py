"""The endpoint, measured: latency and throughput beside two baselines, overload, killed replicas, moved aliases,
autoscaling.

    python benchmarks/serve.py latency --rounds 3
    python benchmarks/serve.py soak --seconds 300
    python benchmarks/serve.py kills --times 10
    python benchmarks/serve.py aliases --times 5
    python benchmarks/serve.py scale

Every command starts and stops its servers on the loopback address, prints what it measured and writes it with `--out`.
The exit code is 1 where a promise is not kept. Run on a quiet machine. `latency` runs one server at a time, all of them
once in each round and in another order each time, so that whatever else the machine does meets each alike; ratios are
taken within a round. Without `--model` the weights are random: they take the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ember_platform.serving import load
from ember_platform.serving.trial import (
    Askers,
    Server,
    TrialError,
    asks,
    endpoint,
    figures,
    free_port,
    random_model,
    records,
)

CLIENTS = (1, 8, 32)
#: What the endpoint is meant to keep: p50 of one client by that of the bare server, throughput of 32 clients likewise.
MOST_P50_RATIO, LEAST_THROUGHPUT_RATIO = 1.15, 1.5
#: How much larger the server may be at the end of a soak than after its first quarter.
MOST_GROWTH = 1.1


def main() -> int:
    """Run one measurement; 0 where what is promised was seen."""
    given = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="ember-bench-", dir="/tmp") as scratch:
        folder = Path(scratch)
        model = Path(given.model) if given.model else random_model(given.preset, folder / "model")
        given.overrides = [*own_settings(given, model), *given.overrides]
        try:
            found = given.run(given, model, folder)
        except TrialError as error:
            print(f"serve: {error}", file=sys.stderr)
            return 1
    found = {"what": given.command, "model": given.model or given.preset, "machine": machine(given), **found}
    if given.out:
        Path(given.out).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 0 if all(found["kept"].values()) else 1


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = program.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[..., dict[str, Any]], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text)
        one.add_argument("--model", help="a model folder (default: random weights of --preset)")
        one.add_argument("--preset", default="embervlm-37m-scratch")
        one.add_argument("--config", default="configs/laptop.yaml")
        one.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="compute threads in all")
        one.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="the same for all")
        one.add_argument("--out", help="JSON file for what was measured")
        one.add_argument("overrides", nargs="*", metavar="field=value", help="of the endpoint's configuration")
        one.set_defaults(run=run)
        return one

    one = command("latency", latency, "beside a bare FastAPI process and Ray Serve's defaults")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--seconds", type=float, default=10, help="of load at each number of clients")
    one.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    one = command("soak", soak, "at twice what it can do")
    one.add_argument("--seconds", type=float, default=300)
    one.add_argument("--deadline", type=float, default=1.0, help="seconds that each request gives itself")
    one = command("kills", kills, "replicas killed under load")
    one.add_argument("--times", type=int, default=10)
    one = command("scale", scale, "replicas added under load, and taken away without it")
    one.add_argument("--clients", type=int, default=16)
    one = command("aliases", aliases, "the champion moved under load")
    one.add_argument("--times", type=int, default=5)
    return program


def own_settings(given: argparse.Namespace, model: Path) -> list[str]:
    """Settings of the endpoint that make it comparable: one replica, all threads, no judgement of random weights."""
    return [
        f"serving.model={model.resolve()}",
        f"serving.replica.cpus={given.threads}",
        f"serving.replica.threads={given.threads}",
        f"serving.replica.precision={given.precision}",
        "serving.scaling.max_replicas=1",
        "serving.rollout.golden.min_agreement=0",
    ]


def machine(given: argparse.Namespace) -> dict[str, Any]:
    """Where and with what it was measured."""
    import ray
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads": given.threads,
        "precision": given.precision,
        "load_1m": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }


# ---------------------------------------------------------------- latency


def latency(given: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """The endpoint, the bare process and Ray's defaults at each number of clients."""
    shots = asks(records(16))
    names = ["endpoint", "bare", "bare, packed", "ray defaults"]
    seen: dict[str, dict[int, list[dict[str, Any]]]] = {name: {n: [] for n in given.clients} for name in names}
    choices: dict[str, list[str]] = {}
    for number in range(given.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with _contender(name, given, model, folder) as server:
                choices[name] = [s.robot for s in asyncio.run(_each(server.url, shots))]
                for clients in given.clients:
                    found = load.summary(asyncio.run(load.closed_loop(server.url, shots, clients, given.seconds)))
                    seen[name][clients].append(found)
                    print(f"round {number + 1}, {name}, {clients} clients: {_line(found)}", flush=True)
    ratios = {
        f"{other} at {clients}": _ratios(seen["endpoint"][clients], seen[other][clients])
        for other in names[1:]
        for clients in given.clients
    }
    print(_table(seen, ratios))
    kept = {"same answers": all(choices[name] == choices["bare"] for name in names)}
    kept["no errors"] = all(set(r["statuses"]) == {"200"} for by in seen.values() for rs in by.values() for r in rs)
    if 1 in given.clients:
        kept["p50 at 1 client"] = ratios["bare at 1"]["p50"]["median"] <= MOST_P50_RATIO
    if 32 in given.clients:
        kept["throughput at 32 clients"] = ratios["bare at 32"]["throughput"]["median"] >= LEAST_THROUGHPUT_RATIO
    return {"rounds": seen, "ratios": ratios, "kept": kept}


def _contender(name: str, given: argparse.Namespace, model: Path, folder: Path) -> Server:
    if name == "endpoint":
        return endpoint(given.config, given.overrides, folder / f"state-{free_port()}")
    script = "benchmarks/serve_ray_defaults.py" if name == "ray defaults" else "benchmarks/serve_bare.py"
    arguments = ["--model", str(model), "--precision", given.precision, "--threads", str(given.threads)]
    arguments += ["--packed"] if name == "bare, packed" else []
    return Server(name, [script, "--port", "PORT", *arguments])


async def _each(url: str, shots: Sequence[load.Ask]) -> list[load.Shot]:
    """Every question once, in order, after some that only warm up."""
    async with load.local_client(url, 1, 120) as client:
        for shot in shots:
            await load.fire(client, shot, 0, 0, None)
        return [await load.fire(client, shot, 0, 0, None) for shot in shots]


def _ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "p50": figures([a["p50_ms"] / b["p50_ms"] for a, b in pairs]),
        "throughput": figures([a["answered_per_s"] / b["answered_per_s"] for a, b in pairs]),
    }


def _line(found: dict[str, Any]) -> str:
    if "p50_ms" not in found:
        return f"nothing answered, {found['statuses']}"
    times = ", ".join(f"{p} {found[f'{p}_ms']:.1f} ms" for p in ("p50", "p95", "p99"))
    return f"{times}, {found['answered_per_s']:.1f}/s, {found['statuses']}"


def _table(seen: dict[str, dict[int, list[dict[str, Any]]]], ratios: dict[str, Any]) -> str:
    lines = ["", "| server | clients | p50 ms | p95 ms | p99 ms | answers/s |", "|---|---|---|---|---|---|"]
    for name, by_clients in seen.items():
        for clients, rounds in by_clients.items():
            keys = ("p50_ms", "p95_ms", "p99_ms", "answered_per_s")
            cells = [f"{statistics.median(r[key] for r in rounds):.1f}" for key in keys]
            lines.append(f"| {name} | {clients} | {' | '.join(cells)} |")
    lines += ["", "| endpoint by | p50 | throughput |", "|---|---|---|"]
    for name, both in ratios.items():
        cells = [f"{v['median']:.2f} ({v['min']:.2f} to {v['max']:.2f})" for v in (both["p50"], both["throughput"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---------------------------------------------------------------- soak


def soak(given: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Requests at twice the rate that it can answer, each with a deadline; its memory meanwhile."""
    shots = asks(records(16))
    with endpoint(given.config, given.overrides, folder / "state") as server:
        capacity = load.summary(asyncio.run(load.closed_loop(server.url, shots, 16, 10)))["answered_per_s"]
        print(f"capacity {capacity:.1f}/s; now {2 * capacity:.1f}/s for {given.seconds:.0f} s", flush=True)
        memory: list[tuple[float, int]] = []
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(server, memory, ended))
        watch.start()
        try:
            fired = asyncio.run(
                load.open_loop(server.url, shots, 2 * capacity, given.seconds, given.deadline, most=2000)
            )
        finally:
            ended.set()
            watch.join()
        server.check()
        after = load.summary(asyncio.run(load.closed_loop(server.url, shots, 1, 5)))
    good = [s.seconds for s in fired if s.status == 200]
    refused = [s.seconds for s in fired if s.status == 503]
    quarter = memory[len(memory) // 4][1]
    found = {
        "capacity_per_s": capacity,
        "offered_per_s": len(fired) / given.seconds,
        **load.summary(fired),
        "refused_p50_ms": 1000 * statistics.median(refused) if refused else None,
        "refused_p99_ms": 1000 * sorted(refused)[int(0.99 * len(refused))] if refused else None,
        "memory": [[round(at), size] for at, size in memory],
        "memory_growth": memory[-1][1] / quarter,
        "after": after,
    }
    late = sum(seconds > given.deadline + 0.1 for seconds in good)
    found["kept"] = {
        "answered or refused": set(found["statuses"]) <= {"200", "503"},
        "answers within their deadline (0.1 s for the way)": late == 0,
        "refused at once (p99 below a quarter of the deadline)": not refused
        or found["refused_p99_ms"] < 250 * given.deadline,
        "memory flat": found["memory_growth"] < MOST_GROWTH,
        "answers as before afterwards": set(after["statuses"]) == {"200"},
    }
    print(f"{_line(found)}; late {late}; memory ×{found['memory_growth']:.3f}", flush=True)
    return found


def _watch(server: Server, memory: list[tuple[float, int]], ended: threading.Event) -> None:
    started = time.monotonic()
    while True:
        memory.append((time.monotonic() - started, server.memory()))
        if ended.wait(5):
            return


# ---------------------------------------------------------------- kills, aliases, replicas


def kills(given: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Replicas ended with SIGKILL, one at a time, each when two are there again."""
    two = [
        "serving.scaling.min_replicas=2",
        "serving.scaling.max_replicas=2",
        "serving.replica.cpus=1",
        "serving.replica.threads=1",
    ]
    with endpoint(given.config, [*given.overrides, *two], folder / "state") as server, Askers(server.url, 4) as askers:
        for number in range(given.times):
            _until(lambda: len(server.replicas()) >= 2 and _answers_grow(askers), server, "two replicas that answer")
            victim = min(server.replicas(), key=lambda process: process.create_time())
            victim.kill()
            print(f"kill {number + 1}: {len(askers.answers)} answers, {len(askers.failures)} failures", flush=True)
            time.sleep(2)
        _until(lambda: len(server.replicas()) >= 2, server, "two replicas")
    kept = {"zero failed requests": not askers.failures, "under load": len(askers.answers) > 10 * given.times}
    return {"kills": given.times, "answers": len(askers.answers), "failures": askers.failures[:20], "kept": kept}


def scale(given: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """One replica, two under load, one again without; the delay before one is taken away is shortened."""
    settings = [*given.overrides, "serving.scaling.max_replicas=2", "serving.scaling.downscale_delay_s=10"]
    moved: dict[str, float] = {}
    with endpoint(given.config, settings, folder / "state") as server:
        counts = [len(server.replicas())]
        with Askers(server.url, given.clients) as askers:
            started = time.monotonic()
            _until(lambda: len(server.replicas()) == 2, server, "second replica")
            counts.append(2)
            _until(lambda: _answers_grow(askers), server, "answers")
            moved["to two (s)"] = time.monotonic() - started
        started = time.monotonic()
        _until(lambda: len(server.replicas()) == 1, server, "single replica")
        counts.append(1)
        moved["back to one (s)"] = time.monotonic() - started
    print(f"replicas {counts}; {moved}; {len(askers.answers)} answers, {len(askers.failures)} failures", flush=True)
    kept = {"one, two, one": counts == [1, 2, 1], "zero failed requests": not askers.failures}
    return {"replicas": counts, **moved, "answers": len(askers.answers), "failures": askers.failures[:20], "kept": kept}


def _answers_grow(askers: Askers) -> bool:
    before = len(askers.answers)
    time.sleep(1)
    return len(askers.answers) > before


def _answered_by(askers: Askers, version: str) -> bool:
    return bool(askers.answers) and askers.answers[-1][1] == version


def _until(true: Callable[[], bool], server: Server, what: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        server.check()
        if time.monotonic() > end:
            raise TrialError(f"no {what} after {seconds:.0f} s:\n{server.said()}")
        time.sleep(0.5)


def aliases(given: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """The alias moved to and fro between two versions that answer differently."""
    from ember_platform.config import load_config
    from ember_platform.mlflow_store import open_store
    from ember_platform.registry import CHAMPION, register_final, register_stage

    base = [o for o in given.overrides if not o.startswith("serving.model=")]
    base += [f"output_dir={folder}/registry", "serving.model=null", "serving.rollout.poll_s=1"]
    config = load_config(given.config, base)
    folders = [model, random_model(given.preset, folder / "other", seed=1)]
    versions = [str(register_final(config, 4, register_stage(config, 4, one, {}, {}))) for one in folders]
    client, name = open_store(config), config.registry.prefix
    client.set_registered_model_alias(name, CHAMPION, versions[0])
    expected = {version: _expected(one, given) for version, one in zip(versions, folders, strict=True)}
    with endpoint(given.config, base, folder / "state") as server, Askers(server.url, 4) as askers:
        for number in range(given.times):
            wanted = versions[(number + 1) % 2]
            _until(lambda: _answers_grow(askers), server, "answers")
            client.set_registered_model_alias(name, CHAMPION, wanted)
            moved = time.monotonic()
            _until(partial(_answered_by, askers, wanted), server, "switch")
            took = time.monotonic() - moved
            print(f"move {number + 1}: version {wanted} answers after {took:.1f} s", flush=True)
            time.sleep(3)
    wrong = [a for a in askers.answers if not _fits(a, expected)]
    kept = {
        "zero failed requests": not askers.failures,
        "every answer names the version that made it": not wrong,
        "both versions answered": {a[1] for a in askers.answers} == set(versions),
    }
    return {
        "moves": given.times,
        "answers": len(askers.answers),
        "misnamed": len(wrong),
        "failures": askers.failures[:20],
        "kept": kept,
    }


def _expected(folder: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    """What a version says to each question: every robot's confidence, computed here."""
    import torch

    from embervlm import EmberVLM

    model = EmberVLM.from_pretrained(folder).eval()
    if given.precision == "bf16":
        model.answer_in(torch.bfloat16)
    requests = [{"image": r.image, "task": r.instruction} for r in records(16)]
    return [{r["robot"]: r["confidence"] for r in answer["robots"]} for answer in model.select_many(requests)]


def _fits(answer: tuple[int, str, str, float], expected: dict[str, list[dict[str, float]]]) -> bool:
    """Whether the answer is nearest to what the version that it names would say."""
    number, version, robot, confidence = answer
    gaps = {name: abs(said[number][robot] - confidence) for name, said in expected.items()}
    return gaps[version] <= min(gaps.values())


if __name__ == "__main__":
    sys.exit(main())
