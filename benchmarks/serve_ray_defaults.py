"""What the endpoint is compared with, second: the same model on Ray Serve as it comes, one replica, no batching.

    python benchmarks/serve_ray_defaults.py --model outputs/final --port 8002 [--precision bf16] [--threads 2]

Only the number of compute threads is set: Ray would give a replica one, the others have `--threads`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import threading
from typing import Any


def deployment(folder: str, precision: str, threads: int) -> Any:
    """The application: `POST /v1/select` with a form, and `GET /readyz`."""
    from fastapi import FastAPI, File, Form
    from ray import serve

    app = FastAPI()

    @serve.ingress(app)
    class Plain:
        def __init__(self) -> None:
            import torch

            from embervlm import EmberVLM

            torch.set_num_threads(threads)
            self.model = EmberVLM.from_pretrained(folder).eval()
            if precision == "bf16":
                self.model.answer_in(torch.bfloat16)

        @app.get("/readyz")
        async def ready(self) -> dict[str, str]:
            return {"status": "ok"}

        @app.post("/v1/select")
        async def select(self, task: str = Form(), image: bytes = File()) -> dict[str, Any]:
            answer = self.model.select_robots(image=image, task=task)
            return {key: answer[key] for key in ("robots", "team", "plan", "reasoning")}

    return serve.deployment()(Plain).bind()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    os.environ.update(
        RAY_AUTH_MODE="disabled", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0"
    )  # loopback only
    import ray
    from ray import serve

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    folder = tempfile.mkdtemp(prefix="ember-plain-", dir="/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})
        serve.run(deployment(given.model, given.precision, given.threads))
        stop.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
