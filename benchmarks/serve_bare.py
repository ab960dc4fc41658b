"""What the endpoint is compared with, first: the same model in one FastAPI process behind uvicorn, and nothing else.

    python benchmarks/serve_bare.py --model outputs/final --port 8001 [--precision bf16] [--threads 2] [--packed]

It decodes and answers right on the event loop: one request at a time, with no thread to wait for.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastapi import FastAPI, File, Form


def application(model: Any) -> FastAPI:
    """`POST /v1/select` with a form, as the endpoint takes it, and `GET /readyz`."""
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/select")
    async def select(task: str = Form(), image: bytes = File()) -> dict[str, Any]:
        answer = model.select_robots(image=image, task=task)
        return {key: answer[key] for key in ("robots", "team", "plan", "reasoning")}

    return app


def load(folder: str, precision: str, threads: int, packed: bool) -> Any:
    """The model, ready to answer."""
    import torch

    from embervlm import EmberVLM

    torch.set_num_threads(threads)
    model = EmberVLM.from_pretrained(folder).eval()
    if precision == "bf16":
        model.answer_in(torch.bfloat16, packed=packed)
    return model


def main() -> None:
    """Serve until ended."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packed", action="store_true", help="the encoder packed, as the endpoint has it in bf16")
    given = parser.parse_args()
    model = load(given.model, given.precision, given.threads, given.packed)
    uvicorn.run(application(model), host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
