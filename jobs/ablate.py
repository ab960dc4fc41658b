"""Train robot selection again without one part at a time, and keep the comparison for the run's ablation figure.

    ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/ablate.py --config configs/laptop.yaml

Every arm is a real, short training of stage 3 from the run's stage-2 model (`--steps` optimizer steps, the same data in
the same order), measured on the test split. What stands in a part's place:

    Pretrained LLM    the decoder with random weights
    Fusion Adapter    the adapter with random weights
    QK Norm           the same decoder without norms of queries and keys (the Llama architecture)
    Reasoning Module  no loss on chains and reasons
    RepViT            the encoder with random weights, frozen

`--dry-run` says what would be trained, and how long that takes going by the run's own stage 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ember_platform import energy, figures
from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.data.manifest import DataError
from ember_platform.train.folders import DONE, FINAL, read_json, stage_dir
from ember_platform.train.loop import TrainingError
from ember_platform.train.pipeline import run_pipeline
from ember_platform.train.plan import PlanError
from ember_platform.train.setup import load_model

STAGE, METRIC, WHOLE = 3, "first_choice", "whole model"


def random_language(model: Any) -> Any:
    """The model with a decoder that has learned nothing."""
    fresh = _fresh(model.config)
    model.language.load_state_dict(fresh.language.state_dict())
    return model


def random_fusion(model: Any) -> Any:
    """The model with an adapter that has learned nothing."""
    model.fusion.load_state_dict(_fresh(model.config).fusion.state_dict())
    return model


def random_vision(model: Any) -> Any:
    """The model with an encoder that has learned nothing (stage 3 leaves it frozen)."""
    model.vision.load_state_dict(_fresh(model.config).vision.state_dict())
    return model


def without_qk_norm(model: Any) -> Any:
    """The same weights in a decoder that does not normalise queries and keys.

    Raises:
        ValueError: the decoder has no such norms.
    """
    text = model.config.text_config.to_dict()
    if text["model_type"] != "qwen3":
        raise ValueError(f"QK Norm: a {text['model_type']} decoder has none to leave out")
    kept = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]
    kept += ["intermediate_size", "vocab_size", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps"]
    kept += [name for name in ("rope_parameters", "hidden_act") if name in text]
    values = {name: text[name] for name in kept} | {"model_type": "llama"}
    config = type(model.config)(**{**model.config.to_dict(), "text_config": values})
    plain = type(model)(config)
    left = plain.load_state_dict(model.state_dict(), strict=False)
    if left.missing_keys or any("_norm" not in key for key in left.unexpected_keys):
        raise ValueError(f"QK Norm: weights do not fit: {left}")
    return plain


def _fresh(config: Any) -> Any:
    import torch

    from embervlm import EmberVLM

    torch.manual_seed(1)
    return EmberVLM(config)


#: Arm → what is done to the model, overrides of the configuration, what stands in the part's place.
ARMS: dict[str, tuple[Callable[[Any], Any] | None, list[str], str]] = {
    WHOLE: (None, [], ""),
    "Pretrained LLM": (random_language, [], "random weights"),
    "Fusion Adapter": (random_fusion, [], "random weights"),
    "QK Norm": (without_qk_norm, [], ""),
    "Reasoning Module": (None, [f"stages.{STAGE}.losses={{consistency: 0.0}}"], ""),
    "RepViT": (random_vision, [], "random weights, frozen"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 where every arm was trained, 1 where it says why not."""
    parser = argparse.ArgumentParser(description="Train robot selection without one part at a time.")
    parser.add_argument("--config", required=True, help="the run's YAML configuration")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each training (default: 60)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and how long that takes")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, such as output_dir=outputs")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        parent = Path(stage_dir(config.output_dir, STAGE - 1), FINAL)
        if options.dry_run:
            print("\n".join(_planned(config, options.steps, parent)))
            return 0
        scores = {name: _trained(name, options, config, parent) for name in ARMS}
        _keep(config, scores, options.steps)
        print("\n".join(figures.draw(config, report=False)))
    except (ConfigError, DataError, PlanError, TrainingError, figures.FiguresError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _planned(config: RunConfig, steps: int, parent: Path) -> list[str]:
    """What would be trained, in lines for a terminal.

    Raises:
        PlanError: the run has no stage-2 model.
    """
    if not (parent / "config.json").is_file():
        raise PlanError(f"{parent}: no model; every arm starts from it, so train the run to stage {STAGE - 1} first")
    lines, left = [f"{len(ARMS)} trainings of stage {STAGE}, {steps} steps each, from {parent}"], 0
    for name, (_, overrides, instead) in ARMS.items():
        trained = Path(stage_dir(str(_folder(config, name)), STAGE), DONE).is_file()
        left += not trained
        said = [text for text in (instead, *overrides, "trained before" if trained else "") if text]
        lines.append(f"  {name}" + (f": {', '.join(said)}" if said else ""))
    seconds = _seconds(config, steps)
    if seconds is None:
        return [*lines, f"no estimate of the time: the run's own stage {STAGE} is not done"]
    each = f"going by the run's own stage {STAGE}, {seconds:.0f} s each"
    return [*lines, f"about {left * seconds / 60:.0f} minutes for the {left} that are not trained ({each})"]


def _seconds(config: RunConfig, steps: int) -> float | None:
    """What an arm takes going by the run's own stage 3: its start, so many of its steps, its evaluation.

    High by the baselines, which an arm is not measured beside. None where the run has no stage 3.
    """
    folder = Path(stage_dir(config.output_dir, STAGE))
    done = read_json(str(folder / DONE))
    if done is None:
        return None
    step = float(np.median(figures.history_of(folder)["seconds"]))
    evaluation = sum(row["seconds"] for row in energy.read(str(folder)) if row["part"] == "evaluation")
    return float(sum(done["startup_seconds"].values()) + steps * step + evaluation)


def _folder(config: RunConfig, name: str) -> Path:
    """Where an arm is trained."""
    return Path(config.output_dir, "ablations", name.lower().replace(" ", "-"))


def _trained(name: str, options: argparse.Namespace, config: RunConfig, parent: Path) -> tuple[float, int]:
    """One arm's score on the test split, and how many records that is; trained before where it was."""
    change, overrides, _ = ARMS[name]
    folder, start = _folder(config, name), parent
    if change is not None:
        start = folder / "start"
        if not (start / "config.json").is_file():
            model, processor = load_model(parent)
            change(model).save_pretrained(start)
            processor.save_pretrained(start)
    own = [f"output_dir={folder}", f"data.dir={config.data.dir}", "evaluation.baselines=false"]
    own += [f"stages.{STAGE}.max_steps={options.steps}", *overrides]
    arm = load_config(options.config, [*options.overrides, *own])
    outcome = run_pipeline(arm, [STAGE], resume_from=str(start), register=False)
    if outcome.problems:
        raise TrainingError("; ".join(outcome.problems))
    found = outcome.metrics[STAGE]
    print(f"{name}: {METRIC} {found['metrics'][METRIC]:.3f}", flush=True)
    return 100 * float(found["metrics"][METRIC]), int(found["samples"])


def _keep(config: RunConfig, scores: dict[str, tuple[float, int]], steps: int) -> None:
    """Write the figure's data into the run."""
    from embervlm.monitoring import data as d

    parts = [name for name in ARMS if name != WHOLE]
    with figures.local_run(config) as run:
        d.FigureStore(run).write(
            d.Ablation(
                components=tuple(parts),
                scores=np.array([[scores[name][0]] for name in parts]),
                baseline=np.array([scores[WHOLE][0]]),
                metric="first choice (%)",
                replaced=tuple(ARMS[name][2] for name in parts),
                source=f"one training of {steps} steps each from the same stage-2 model; {scores[WHOLE][1]} test tasks",
            )
        )


if __name__ == "__main__":
    sys.exit(main())
