"""EmberVLM: a small vision-language model that chooses robots from a fleet.

The names below are loaded when they are first used, so that `import embervlm` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embervlm.fleet import Fleet, Robot
    from embervlm.models.auto import EmberVLM, EmberVLMConfig, EmberVLMProcessor

__all__ = ["EmberVLM", "EmberVLMConfig", "EmberVLMProcessor", "Fleet", "Robot"]

_HOMES = {
    "EmberVLM": "embervlm.models.auto",
    "EmberVLMConfig": "embervlm.models.auto",
    "EmberVLMProcessor": "embervlm.models.auto",
    "Fleet": "embervlm.fleet",
    "Robot": "embervlm.fleet",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'embervlm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
