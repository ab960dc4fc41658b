"""What a registered pyfunc model declares: its requirements, its code, its signature and an input example."""

from __future__ import annotations

import importlib.util
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

#: The file that MLflow copies into the model and runs on loading.
CODE = Path(__file__).with_name("pyfunc_model.py")
#: What a loaded model needs beyond its own code, which it carries. Pinned to what runs here.
REQUIREMENTS = (
    "mlflow", "numpy", "opencv-python-headless", "pandas", "pillow", "pyarrow", "pyyaml", "safetensors", "timm",
    "tokenizers", "torch", "torchvision", "transformers",
)  # fmt: skip
_EXAMPLE = {"task": "inspect the pier below the waterline", "image": "", "fleet": ""}


def requirements() -> list[str]:
    """The pinned requirements of a loaded model; what is not installed here it does not need."""
    pinned = []
    for package in REQUIREMENTS:
        try:
            pinned.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            logger.info("registry: %s is not installed here and is left out of the model's requirements", package)
    return pinned


def package_folder() -> Path:
    """The source of `embervlm`: a registered model carries it, and so loads where the package is not installed."""
    spec = importlib.util.find_spec("embervlm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package embervlm is not importable, so the model cannot carry its code")
    return Path(next(iter(spec.submodule_search_locations)))


def signature(stage: int) -> Any:
    """The columns in, the parameters and the columns out of a stage's model."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    text, number = DataType.string, DataType.double
    inputs = [
        ColSpec(text, "task"),
        ColSpec(AnyType(), "image", required=False),
        ColSpec(text, "fleet", required=False),
    ]
    if stage < 3:
        return ModelSignature(inputs=Schema([*inputs]), outputs=Schema([ColSpec(text, "text")]))
    ranked = Object([Property("robot", text), Property("confidence", number)])
    steps = Object([Property("order", DataType.long), Property("subtask", text), Property("robot", text)])
    outputs = [
        ColSpec(text, "robot"),
        ColSpec(number, "confidence"),
        ColSpec(Array(ranked), "robots"),
        ColSpec(Array(text), "team"),
        ColSpec(number, "none_of_these", required=False),
        ColSpec(number, "familiarity", required=False),
        ColSpec(Array(steps), "plan"),
        ColSpec(text, "reasoning"),
    ]
    params = [ParamSpec("reasoning", DataType.boolean, False), ParamSpec("top_k", DataType.long, 0)]
    return ModelSignature(inputs=Schema([*inputs]), outputs=Schema([*outputs]), params=ParamSchema(params))


def example() -> Any:
    """One row that the model answers."""
    import pandas as pd

    return pd.DataFrame([_EXAMPLE])
