"""How both clients set httpx up, and what its failures mean."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

import httpx
import httpx_sse

from ember_platform.client.errors import ConnectionFailed, DeadlineExceeded, EmberError, ProtocolError

DEFAULT_TIMEOUT_S = 60.0
KEY_VARIABLE = "EMBERVLM_KEY"


def settings(url: str, key: str | None, http: dict[str, Any]) -> dict[str, Any]:
    """Keywords of httpx's client.

    Raises:
        ValueError: an address that is not http or https, or a key that no header can hold.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url: {url!r} does not begin with http:// or https://")
    headers = {"User-Agent": f"embervlm-client/{_version()}"}
    key = os.environ.get(KEY_VARIABLE) if key is None else key
    if key:
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("key: holds characters that no key has")
        headers["Authorization"] = f"Bearer {key}"
    # Redirects are not followed: none is part of the API, and a key goes nowhere else.
    return {"base_url": url, "headers": headers, "follow_redirects": False, **http}


def _version() -> str:
    try:
        return metadata.version("embervlm")
    except metadata.PackageNotFoundError:
        return "source"


def failure(error: Exception, request_id: str = "") -> EmberError:
    """What httpx's failure means. The time-outs that it knows are those of the call's deadline."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx_sse.SSEError):
        return ProtocolError(f"not a stream of events ({error})", request_id)
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return ConnectionFailed(f"the server cannot be reached ({text})", request_id)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"no answer within the deadline ({text})", request_id)
    if isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol | httpx.ProxyError):
        return ConnectionFailed(f"the connection was lost ({text})", request_id)
    return ProtocolError(text, request_id)
