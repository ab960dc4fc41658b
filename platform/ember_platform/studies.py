"""Short trainings that only figures need: robot selection without one part at a time, and stage 2 with a teacher.

Both start from models that the run left and keep what they made in `<output_dir>/studies/`, so that an interrupted one
goes on. Where there is no GPU to wait for they train in this process, one after another: a worker's start would take
longer than many of the trainings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ember_platform import figures, storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.mlflow_store import with_store
from ember_platform.train import folders
from ember_platform.train.plan import PlanError
from ember_platform.train.setup import load_model
from ember_platform.tuning.space import apply

Say = Callable[[str], None]
#: Below the run's folder.
FOLDER = "studies"
#: The ablation: the stage that is trained again, what is compared, and the arm that nothing is taken from.
STAGE, METRIC, WHOLE = 3, "first_choice", "whole model"
#: The stage that a teacher takes part in, its evaluations in a study, and the validation records of each.
TAUGHT, EVALUATIONS, EVALUATED = 2, 4, 128


@dataclass(frozen=True)
class Score:
    """What one arm came to on the test split: percent right, of so many tasks."""

    percent: float
    tasks: int


# --------------------------------------------------------------- what is left out


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


#: The decoders (`model_type`) that have a part; the other parts every model has.
ONLY_IN = {"QK Norm": ("qwen3",)}


def arms(config: RunConfig) -> list[str]:
    """The arms that the run's model allows, the whole model first.

    Raises:
        PlanError: the run has no stage-2 model.
    """
    content = folders.read_json(storage.join(final_of(config, STAGE - 1), "config.json")) or {}
    decoder = content["text_config"]["model_type"]
    return [name for name in ARMS if decoder in ONLY_IN.get(name, (decoder,))]


# --------------------------------------------------------------------- ablation


def ablation(config: RunConfig, steps: int, say: Say = print) -> None:
    """Train every arm for some steps from the run's stage-2 model, and write the comparison for the run's figure.

    Args:
        config: of the run. steps: optimizer steps of each training; the arms have the same data in the same order.

    Raises:
        PlanError: the run has no stage-2 model. TrainingError: an arm's training failed.
    """
    from embervlm.monitoring import data as d

    parent = final_of(config, STAGE - 1)
    digest = ablation_digest(config, steps)
    scores = {name: _arm(config, name, steps, parent, digest, say) for name in arms(config)}
    parts = [name for name in scores if name != WHOLE]
    source = f"one training of {steps} steps each from the same stage-2 model; {scores[WHOLE].tasks} test tasks"
    with figures.local_run(config, read=False) as run:
        d.FigureStore(run).write(
            d.Ablation(
                components=tuple(parts),
                scores=np.array([[scores[name].percent] for name in parts]),
                baseline=np.array([scores[WHOLE].percent]),
                metric="first choice (%)",
                replaced=tuple(ARMS[name][2] for name in parts),
                source=source,
            )
        )
    _note(config, "ablation", digest)


def ablation_digest(config: RunConfig, steps: int) -> str:
    """Of everything that decides an ablation's result.

    Raises:
        PlanError: the run has no stage-2 model.
    """
    return _digest(config, STAGE, final_of(config, STAGE - 1), steps)


def arm_folder(config: RunConfig, name: str) -> str:
    """Where an arm is trained."""
    return storage.join(config.output_dir, FOLDER, "ablation", name.lower().replace(" ", "-"))


def arm_score(config: RunConfig, name: str, digest: str) -> Score | None:
    """What an arm came to, where it was trained for the ablation of this digest."""
    found = folders.read_json(storage.join(arm_folder(config, name), "score.json"))
    if found is None or found["digest"] != digest:
        return None
    return Score(found["percent"], found["tasks"])


def _arm(config: RunConfig, name: str, steps: int, parent: str, digest: str, say: Say) -> Score:
    """One arm's score on the test split; of a training before where there was one."""
    from ember_platform.measure import measure_stage

    known = arm_score(config, name, digest)
    if known is not None:
        say(f"ablation, {name}: trained before, {METRIC} {known.percent / 100:.3f}")
        return known
    change, overrides, _ = ARMS[name]
    folder, start = arm_folder(config, name), parent
    if change is not None:
        start = storage.join(folder, f"start-{digest[:12]}")
        if not storage.exists(storage.join(start, "config.json")):
            with folders.fetched(parent) as local, tempfile.TemporaryDirectory() as made:
                model, processor = load_model(local)
                change(model).save_pretrained(made)
                processor.save_pretrained(made)
                folders.publish(Path(made), start)
    own = [f"name={_name(config, folder)}", f"output_dir={folder}", f"stages.{STAGE}.max_steps={steps}"]
    own += ["evaluation.baselines=false", *overrides]
    arm = _alone(config, own)
    best = _trained(arm, STAGE, digest, start, arm.data.dir)
    with folders.fetched(best) as local:
        found = measure_stage(arm, STAGE, local)
    score = Score(100 * float(found["metrics"][METRIC]), int(found["samples"]))
    content = {"digest": digest, "percent": score.percent, "tasks": score.tasks}
    folders.write_json(storage.join(folder, "score.json"), content)
    say(f"ablation, {name}: {METRIC} {score.percent / 100:.3f} after {steps} steps")
    return score


# ----------------------------------------------------------------- distillation


def distillation(config: RunConfig, steps: int, say: Say = print) -> None:
    """Train stage 2 once more for some steps with the run's own stage-2 model as the teacher, and write the gap.

    A student of its own size, which has yet to learn what the teacher has learned, is what shows a teacher's words
    arriving ("born-again networks", Furlanello et al., ICML 2018, arXiv:1805.04770). The run's models stay as they are.

    Args:
        config: of the run, without a teacher of its own. steps: optimizer steps; the teacher reads as many batches.

    Raises:
        PlanError: the run has no model of stages 1 and 2. TrainingError: training failed.
    """
    from ember_platform.train.teach import teach
    from embervlm.monitoring.data import FigureStore
    from embervlm.monitoring.measuring.stage2 import distillation as write_gap

    teacher, student = final_of(config, TAUGHT), final_of(config, TAUGHT - 1)
    folder, digest = storage.join(config.output_dir, FOLDER, "distillation"), distillation_digest(config, steps)
    every = max(1, steps // EVALUATIONS)
    own = [f"name={_name(config, folder)}", f"output_dir={folder}"]
    own += [f"stages.{TAUGHT}.max_steps={steps}", f"teacher.model={teacher}"]
    own += [f"stages.{TAUGHT}.{name}={every}" for name in ("eval_every", "save_every")]
    own += [f"stages.{TAUGHT}.eval_samples={EVALUATED}"]
    records = steps * config.stage(TAUGHT).batch_size
    taught = teach(apply(config, own), _first(Manifest.load(config.data.dir), TAUGHT, records), student, say=say)
    best = _trained(_alone(config, own), TAUGHT, digest, student, taught)
    where = f"{steps} steps from the stage-1 model for this figure only, taught by the run's own stage-2 model; "
    where += f"{EVALUATED} validation records; "
    history = figures.history_of(folders.stage_dir(folder, TAUGHT))
    with figures.local_run(config, read=False) as run:
        write_gap(FigureStore(run), history, "stage-2 model", where)
    say(f"distillation: the run's stage-2 model taught another for {steps} steps ({best})")
    _note(config, "distillation", digest)


def distillation_digest(config: RunConfig, steps: int) -> str:
    """Of everything that decides the result of that training.

    Raises:
        PlanError: the run has no model of stages 1 and 2.
    """
    from ember_platform.train.pipeline import content_digest, digest_of

    student = _digest(config, TAUGHT, final_of(config, TAUGHT - 1), steps)
    return digest_of(student, content_digest(final_of(config, TAUGHT)))


def _first(manifest: Manifest, stage: int, records: int) -> Manifest:
    """A data folder's first shards of a stage: as many training records as are wanted, the other splits whole."""
    train, rows = [], 0
    for shard in manifest.select(stage, "train"):
        if rows < records:
            train.append(shard)
            rows += shard.rows
    splits = {split: manifest.select(stage, split) for split in ("validation", "test")}
    return replace(manifest, shards={f"stage{stage}": {"train": train, **splits}})


# ------------------------------------------------------------------------- both


@dataclass(frozen=True)
class Study:
    """A study by what carries it out, what decides its result, and the stages whose models must be there.

    Those are the models that it starts from, and that of the stage whose trainings it compares: a run that has not
    trained that stage has nothing to set the comparison beside.
    """

    carry_out: Callable[[RunConfig, int, Say], None]
    digest: Callable[[RunConfig, int], str]
    stages: tuple[int, ...]


#: Name → study; its steps are `figures.<name>_steps`.
STUDIES = {
    "distillation": Study(distillation, distillation_digest, (TAUGHT - 1, TAUGHT)),
    "ablation": Study(ablation, ablation_digest, (STAGE - 1, STAGE)),
}


def due(config: RunConfig) -> dict[str, int]:
    """The studies that the configuration asks for and the run's present models have not had: name → steps."""
    found = {}
    for name, study in STUDIES.items():
        steps = getattr(config.figures, f"{name}_steps")
        if name == "distillation" and config.teacher.model:
            continue  # the run's own history has the gap to that teacher
        if config.figures.enabled and steps and all(_has(config, n) for n in study.stages):
            noted = folders.read_json(storage.join(config.output_dir, FOLDER, f"{name}.json")) or {}
            if noted.get("digest") != study.digest(config, steps):
                found[name] = steps
    return found


def carry_out(config: RunConfig, name: str, steps: int, say: Say = print) -> None:
    """One of `due`."""
    STUDIES[name].carry_out(config, steps, say)


def final_of(config: RunConfig, stage: int) -> str:
    """The folder of a stage's model.

    Raises:
        PlanError: the run has none.
    """
    folder = storage.join(folders.stage_dir(config.output_dir, stage), folders.FINAL)
    if not _has(config, stage):
        raise PlanError(f"{folder}: no model; the training starts from it, so train the run to stage {stage} first")
    return folder


def _has(config: RunConfig, stage: int) -> bool:
    folder = storage.join(folders.stage_dir(config.output_dir, stage), folders.FINAL)
    return storage.exists(storage.join(folder, "config.json"))


def _digest(config: RunConfig, stage: int, parent: str, steps: int) -> str:
    from ember_platform.train.pipeline import content_digest, digest_of

    data = Manifest.load(config.data.dir).stage_digest(stage)
    return digest_of(config.stage_digest(stage), data, content_digest(parent), str(steps))


def _name(config: RunConfig, folder: str) -> str:
    """What a short training is called: the run, the study, and the arm where there are several."""
    return "-".join([config.name, *folder.removeprefix(storage.join(config.output_dir, FOLDER)).strip("/").split("/")])


def _alone(config: RunConfig, overrides: list[str]) -> RunConfig:
    """The configuration of a short training: in this process where there is no GPU, every picture encoded anew."""
    own = ["figures.enabled=false", "data.feature_cache=off", *overrides]
    if not config.cluster.use_gpu:
        own += ["cluster.num_workers=1", "cluster.min_workers=null"]
    return apply(with_store(config), own)


def _trained(config: RunConfig, stage: int, digest: str, parent: str, data_dir: str) -> str:
    """Train a stage, or go on; the folder of its best model. In the tracking store it is a run of its own name."""
    from ember_platform.tracking import Tracker
    from ember_platform.train.stage_run import run_stage

    here, status, tracker = not config.cluster.use_gpu, "FAILED", Tracker(config)
    run = tracker.start_pipeline()
    try:
        trained = run_stage(config, stage, digest=digest, parent=parent, data_dir=data_dir, here=here, tracking_run=run)
        status = "FINISHED"
    finally:
        tracker.finish(status)
    return trained.best


def _note(config: RunConfig, name: str, digest: str) -> None:
    """That a study was carried out, and on what."""
    folders.write_json(storage.join(config.output_dir, FOLDER, f"{name}.json"), {"digest": digest})
