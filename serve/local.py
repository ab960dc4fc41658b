"""The endpoint on this machine, in the foreground: what `make serve` runs. Ctrl-C ends it and all that it started.

python serve/local.py --config configs/laptop.yaml serving.replica.cpus=2
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.registry import RegistryError

PAGE = Path(__file__).resolve().parent / "page"
#: Beside the replicas: Serve's own actors take logical CPUs of none, tasks may need one.
SPARE_CPUS = 2
NAME = "embervlm"


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(description="Serve robot selection on this machine.")
    program.add_argument("--config", default="configs/laptop.yaml", help="run configuration (default: %(default)s)")
    program.add_argument("overrides", nargs="*", help="dotted fields, as serving.port=8080")
    return program


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free on the loopback address at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run(config: RunConfig, stop: threading.Event) -> None:
    """Start Ray, Serve and the application, and wait until `stop` is set.

    Raises:
        OpenError: it would be open to strangers. RegistryError: there is no champion. RuntimeError: the application
            did not start.
    """
    from ember_platform.serving.deployment import application, check_open, is_private
    from ember_platform.serving.ingress import environment
    from ember_platform.serving.sources import source_of

    serving = config.serving
    check_open(serving, serving.host)
    source_of(config).champion()  # told now in one line, rather than by a replica that does not start
    if serving.ingress == "haproxy" and not is_private(serving.host):
        raise ConfigError(
            f"serving.ingress: haproxy has no TLS and is for loopback or a private network, and {serving.host} is "
            "neither; set serving.ingress=proxy, or listen on a private address"
        )
    folder = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))  # short: sockets lie below it
    os.environ.update(
        RAY_AUTH_MODE="disabled",  # Ray itself listens on loopback only
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",  # its 15 is for batch work; here somebody waits for the answer
        PYTHONPATH=os.pathsep.join([str(PAGE.parents[1]), str(PAGE.parents[1] / "platform")]),
        **environment(serving, folder / "h", *free_ports(2)),
    )
    import ray
    from ray import serve

    cpus = int(serving.replica.cpus * serving.scaling.max_replicas) + SPARE_CPUS
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
            _temp_dir=str(folder / "r"),
            _node_ip_address="127.0.0.1",
        )
        # After Ray, which puts handlers of its own in their place.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, partial(_asked_to_end, stop))
        serve.start(http_options={"host": serving.host, "port": serving.port})
        page = PAGE if PAGE.is_dir() else None
        replicas = serve.run(application(config, page), name=NAME)
        print(f"serving on http://{serving.host}:{serving.port} (Ctrl-C ends it)", flush=True)
        stop.wait()
        print("ending: what is under way is finished first (Ctrl-C again: not even that)", flush=True)
        # What comes now is refused, and told when to try again. A replica that does not answer is not waited for.
        with suppress(TimeoutError):
            replicas.broadcast("drain").results(timeout_s=10, return_exceptions=True)
        with suppress(TimeoutError):  # nor is what takes longer than a minute
            serve.delete(NAME)
    finally:
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _asked_to_end(stop: threading.Event, *_: object) -> None:
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parser().parse_args(argv)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        run(load_config(args.config, args.overrides), threading.Event())
    except RegistryError as error:
        hint = "train and promote one (make demo), or serve a folder: serving.model=outputs/final"
        print(f"serve/local.py: {error}; {hint}", file=sys.stderr)
        return 2
    except (ConfigError, RuntimeError, FileNotFoundError) as error:
        print(f"serve/local.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
