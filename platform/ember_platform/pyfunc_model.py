"""An EmberVLM folder as an MLflow pyfunc model. MLflow copies this file into the model and runs it on loading.

Input: a DataFrame with `task` and, where wanted, `image` (a path, bytes or base64; empty for none) and `fleet`
(JSON: a list of robots, or `{"robots": […]}`; empty for the default five). Parameters: `reasoning`, `top_k` (0: all).
Stages 3 and 4 answer with robots. Stages 1 and 2 know no robots yet: they answer `task` as a prompt, in `text`.

The one module that does something on import, as MLflow's models from code ask: it names its model.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel


def read_image(value: Any, row: int) -> Any:
    """A cell as what the model opens: None, bytes or a path.

    Raises:
        ValueError: neither a file nor base64, naming the row.
    """
    if value is None or (isinstance(value, float) and value != value) or value is pd.NA or value in ("", b""):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, os.PathLike):
        return Path(value)
    if not isinstance(value, str):
        return value  # a PIL picture or an array: the processor says what it takes
    if value.startswith("data:"):
        value = value.partition(",")[2]
    elif len(value) < 4096 and Path(value).is_file():
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"image of row {row}: {value[:80]!r} is neither a file nor base64") from error


def read_fleet(value: Any, row: int) -> Any:
    """A cell as a fleet: None for the default, else a list of robots.

    Raises:
        ValueError: not JSON, naming the row.
    """
    if value is None or (isinstance(value, float) and value != value) or value is pd.NA or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"fleet of row {row}: not JSON: {error}") from error
    return value["robots"] if isinstance(value, dict) and "robots" in value else value


class EmberModel(PythonModel):
    """Loads the folder once and answers rows in batches."""

    def load_context(self, context: Any) -> None:
        """Load model and processor from the artifact `model`."""
        from embervlm import EmberVLM

        self.stage = int((context.model_config or {}).get("stage", 4))
        self.model = EmberVLM.from_pretrained(context.artifacts["model"]).eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One answer per row: `text`, or the first `robot`, its `confidence` and all that `select_robots` gives.

        `none_of_these` and `familiarity` are empty where the model has nothing fitted for them.
        """
        rows = model_input.to_dict("records")
        images = [read_image(row.get("image"), i) for i, row in enumerate(rows)]
        if self.stage < 3:
            prompts = [{"image": image, "prompt": row["task"]} for image, row in zip(images, rows, strict=True)]
            return pd.DataFrame({"text": self.model.generate_texts(prompts)})
        params = params or {}
        requests = [
            {"image": image, "task": row["task"], "fleet": read_fleet(row.get("fleet"), i)}
            for i, (image, row) in enumerate(zip(images, rows, strict=True))
        ]
        answers = self.model.select_many(requests, reasoning=bool(params.get("reasoning", False)))
        top_k = int(params.get("top_k", 0)) or None
        return pd.DataFrame(
            [
                {
                    "robot": answer["robots"][0]["robot"],
                    "confidence": answer["robots"][0]["confidence"],
                    "robots": answer["robots"][:top_k],
                    "team": answer["team"],
                    "none_of_these": answer["none_of_these"],
                    "familiarity": answer["familiarity"],
                    "plan": answer["plan"],
                    "reasoning": answer["reasoning"],
                }
                for answer in answers
            ]
        )


mlflow.models.set_model(EmberModel())
