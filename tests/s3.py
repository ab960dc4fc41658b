"""A local S3 (moto in server mode) whose answers can be spoiled, for tests."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

BUCKET = "ember"
#: Seconds that a stalled answer takes: longer than any test lets a request stand still.
STALL = 4.0


class LocalS3:
    """The server. `faults` is what happens to the next requests: 500, 503, reset, stall, cut, or "" for nothing.

    `always` happens to every request while it is set, and where `every` is above 0, one in so many fails, in one way
    after the other; `seen` holds (method, path, fault) of all.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.faults: deque[str] = deque()
        self.always = ""
        self.every = 0
        self.seen: list[tuple[str, str, str]] = []
        self.moto = DomainDispatcherApplication(create_backend_app)

        class Quiet(MotoRequestHandler):
            def log(self, *arguments: Any) -> None:
                """Nothing: requests that are cut off are meant to be."""

        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        fault = self.always or (self.faults.popleft() if self.faults else "")
        if not fault and self.every and len(self.seen) % self.every == self.every - 1:
            fault = ("500", "reset", "503")[len(self.seen) // self.every % 3]
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], fault))
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            start_response(f"{fault} Fault", [("Content-Type", "application/xml")])
            return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]
        if fault == "reset":
            return self._reset(environ)
        if fault == "stall":
            time.sleep(STALL)
        answer = self.moto(environ, start_response)
        return self._half(environ, answer) if fault == "cut" else answer

    def _reset(self, environ: dict[str, Any]) -> list[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Not close(): the handler's files would keep it open, and then it would end in good order.
        os.close(connection.detach())
        raise ConnectionError("reset on purpose")

    def _half(self, environ: dict[str, Any], answer: Any) -> Iterator[bytes]:
        body = b"".join(answer)
        yield body[: len(body) // 2]
        self._reset(environ)

    def stop(self) -> None:
        self.server.shutdown()


@contextlib.contextmanager
def local_s3(**environment: str) -> Iterator[LocalS3]:
    """A server with an empty bucket, and the environment by which boto3, and so everything, finds it."""
    server = LocalS3()
    server.client().create_bucket(Bucket=BUCKET)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ENDPOINT_URL=server.endpoint,
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        **environment,
    )
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()
