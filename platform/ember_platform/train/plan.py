"""What a run will do, and what would stop it, known before any work starts."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data.manifest import FILE, DataError, Manifest, stage_folder
from ember_platform.data.order import epoch_size, steps_per_epoch
from ember_platform.train import folders
from ember_platform.train.checkpoint import MODEL, RECORD, STATE

STAGES = (0, 1, 2, 3, 4)
_MIB = 2**20


class PlanError(ValueError):
    """A run that cannot work. The message names what, where, and what to do."""


@dataclass(frozen=True)
class Start:
    """Where the first stage begins: a model folder (None: a new model), or a checkpoint of that stage."""

    parent: str | None
    resume: str | None = None


@dataclass(frozen=True)
class PhaseRow:
    """One phase of the plan. Memory is MiB per worker, an estimate (`memory`)."""

    stage: int
    phase: str
    records: int
    epochs: int
    steps: int
    batch_size: int
    precision: str
    zero_stage: int
    trained: int
    total: int
    weights: float
    gradients: float
    optimizer: float
    activations: float


def wanted_stages(config: RunConfig, stages: Sequence[int], resume_from: str | None = None) -> list[int]:
    """The stages to run, in order: those asked for, and 0 before 1 where the vision encoder starts untrained.

    Args:
        config: of the run.
        stages: numbers that are asked for.
        resume_from: the model or checkpoint to start from; the eyes of one that has trained them are not begun anew.

    Raises:
        PlanError: a number that is no stage, or one that the configuration does not have, or a stage's loss term or
            metric that there is not.
    """
    from ember_platform.train.setup import stage_of

    numbers = sorted(set(stages))
    unknown = [n for n in numbers if n not in STAGES]
    if unknown or not numbers:
        raise PlanError(f"--stages: {unknown[0] if unknown else 'none'} is not one of {', '.join(map(str, STAGES))}")
    warmup = 1 in numbers and 0 not in numbers and "0" in config.stages and needs_warmup(config)
    if warmup and not (resume_from and has_seen(resume_from)):
        numbers.insert(0, 0)
    for number in numbers:
        try:
            stage_of(config, number)  # names what there is
        except ValueError as error:
            raise PlanError(str(error)) from error
    return numbers


def needs_warmup(config: RunConfig) -> bool:
    """Whether the vision encoder has no pretrained weights."""
    from ember_platform.train.setup import model_config

    return model_config(config).vision_weights is None


def has_seen(path: str) -> bool:
    """Whether the vision encoder of a model folder or checkpoint was ever trained: its norms have counted batches.

    Read from the file's header (safetensors: the header's length in 8 bytes, then JSON with each tensor's place), so
    that no model is fetched for it. False where there is no such file; what is wrong with the path is told later.
    """
    folder = storage.join(path, MODEL) if storage.exists(storage.join(path, RECORD)) else path
    file = storage.join(folder, "model.safetensors")
    if not storage.exists(file):
        return False
    length = int.from_bytes(storage.read_bytes(file, 0, 8), "little")
    tensors = json.loads(storage.read_bytes(file, 8, length))
    counts = (n for n in tensors if n.startswith("vision.") and n.endswith("num_batches_tracked"))
    name = next(counts, None)
    if name is None:
        return False
    start, end = tensors[name]["data_offsets"]
    return int.from_bytes(storage.read_bytes(file, 8 + length + start, end - start), "little") > 0


def first_model(config: RunConfig, numbers: list[int], resume_from: str | None) -> Start:
    """Where the first stage starts.

    Raises:
        PlanError: the parent model is missing, or `resume_from` is neither checkpoint nor model folder.
    """
    first = numbers[0]
    given = _resume(resume_from, first) if resume_from else Start(None)
    if given.parent is not None:
        return given
    earlier = [n for n in STAGES if n < first and str(n) in config.stages]
    if first == 1 and not needs_warmup(config):
        earlier = []
    if not earlier:
        return given
    parent = storage.join(folders.stage_dir(config.output_dir, earlier[-1]), folders.FINAL)
    if not storage.exists(storage.join(parent, "config.json")):
        raise PlanError(
            f"stage {first} starts from the model of stage {earlier[-1]}, and there is none in {parent}; run "
            f"--stages {earlier[-1]},{first} first, or name a model folder or checkpoint with --resume_from"
        )
    return Start(parent, given.resume)


def _resume(path: str, first: int) -> Start:
    """What a user's `--resume_from` means: a checkpoint of this stage, one of an earlier stage, or a model folder."""
    if storage.exists(storage.join(path, RECORD)):
        state = folders.read_json(storage.join(path, STATE)) or {}
        stage = state.get("stage")
        if stage == first:
            return Start(None, path)
        if isinstance(stage, int) and stage < first:
            return Start(storage.join(path, MODEL))
        raise PlanError(f"--resume_from {path}: a checkpoint of stage {stage}, and the first stage to run is {first}")
    if storage.exists(storage.join(path, "config.json")):
        return Start(path)
    raise PlanError(f"--resume_from {path}: neither a checkpoint (no {RECORD}) nor a model folder (no config.json)")


def check(config: RunConfig, numbers: list[int]) -> None:
    """Everything that the running cluster and this configuration must have for each other.

    Raises:
        PlanError: what is missing.
    """
    import ray

    cluster = config.cluster
    have = ray.cluster_resources()
    least = cluster.min_workers or cluster.num_workers
    wanted = _cpus(config, least)
    if wanted > have.get("CPU", 0):
        beside = wanted - least * cluster.cpus_per_worker
        raise PlanError(
            f"cluster.num_workers: {least} workers of {cluster.cpus_per_worker:g} CPUs and {beside:g} "
            f"for their data need {wanted:g} logical CPUs, and the cluster has {have.get('CPU', 0):g}; use fewer, "
            "data.loader=actor, or start the cluster with more logical CPUs (`ray start --num-cpus`)"
        )
    if have.get("GPU", 0) < least * cluster.gpus:
        raise PlanError(
            f"cluster.num_workers: {least} workers with a GPU each, and the cluster has "
            f"{have.get('GPU', 0):g}; use fewer workers or cluster.use_gpu=false"
        )
    if 2 in numbers and config.teacher.model:
        check_teacher(config.teacher.model)
    check_precision(config, numbers)


def check_teacher(folder: str) -> None:
    """The teacher is there, before the stages ahead of it are trained.

    Raises:
        PlanError: it is no model folder, or of a kind that answers no questions.
    """
    teacher_kind(folder)


def teacher_kind(folder: str) -> tuple[str, bool]:
    """What a teacher's folder holds: embervlm, image-text or text; and whether prompt and answer are one sequence.

    Raises:
        PlanError: it is no model folder, or of a kind that answers no questions.
    """
    from transformers.models.auto import modeling_auto as known

    config = folders.read_json(storage.join(folder, "config.json"))
    if config is None:
        raise PlanError(f"teacher.model: {folder} is no model folder (no config.json)")
    name = config.get("model_type")
    if name == "embervlm":
        return "embervlm", True
    whole = not config.get("is_encoder_decoder", False)
    if name in known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "image-text", whole
    if name in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "text", whole
    raise PlanError(f"teacher.model: {folder} is a {name!r}, which neither reads pictures and text nor writes text")


def _cpus(config: RunConfig, workers: int) -> float:
    """Logical CPUs that so many workers and their data need."""
    # Ray Data reads with tasks of one whole CPU; where none is left beside the workers, they wait for ever.
    beside = float(workers) if config.data.loader == "ray_data" else 0.5
    return workers * config.cluster.cpus_per_worker + beside


def fitting_workers(config: RunConfig, stage: int) -> int:
    """Workers of a stage that the running cluster has room for, from `cluster.num_workers` down to `min_workers`.

    Only numbers that the batch divides by; the least of them where there is room for none (Ray then waits for it).
    """
    cluster = config.cluster
    if cluster.min_workers is None:
        return cluster.num_workers
    import ray

    settings, have = config.stage(stage), ray.cluster_resources()
    counts = [
        count
        for count in range(cluster.num_workers, cluster.min_workers - 1, -1)
        if settings.batch_size % (count * settings.gradient_accumulation) == 0
    ]
    for count in counts:
        if _cpus(config, count) <= have.get("CPU", 0) and count * cluster.gpus <= have.get("GPU", 0):
            return count
    return counts[-1]


def check_precision(config: RunConfig, numbers: list[int]) -> None:
    """bf16 is asked for only where there is some. Asked on a node that would run a worker, if there is a cluster.

    Raises:
        PlanError: the processor has no bf16.
    """
    import ray

    from ember_platform.train.precision import PrecisionError, resolve_precision

    strict = [n for n in numbers if config.stage(n).precision == "bf16"]
    if not strict:
        return
    device = "cuda" if config.cluster.use_gpu else "cpu"
    field = f"stages.{strict[0]}.precision"
    try:
        if ray.is_initialized():
            options = {"num_cpus": config.cluster.cpus_per_worker, "num_gpus": config.cluster.gpus}
            probe: Any = ray.remote(resolve_precision).options(**options)
            ray.get(probe.remote("bf16", device, field))
        else:
            resolve_precision("bf16", device, field)
    except PrecisionError as error:
        raise PlanError(str(error)) from error


def make_plan(config: RunConfig, numbers: list[int]) -> list[PhaseRow]:
    """Every phase of the stages, counted.

    Parameters are counted on the model itself, steps on the prepared data or, before that, on what would be prepared.

    Raises:
        PlanError: neither says how many records there will be.
    """
    from ember_platform.train.precision import resolve_precision
    from ember_platform.train.setup import model_config, stage_of
    from embervlm import EmberVLM

    sizes = model_config(config)
    if sizes.text_config is None:
        sizes.text_config = sizes.decoder_config()
    model = EmberVLM(sizes)
    counted = train_rows(config, numbers)
    rows = []
    for number in numbers:
        stage, settings = stage_of(config, number), config.stage(number)
        records = sum(counted[number].values())
        for index, phase in enumerate(stage.phases):
            stage.prepare(model, phase)
            module = stage.module(model)
            trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
            total = sum(p.numel() for p in module.parameters())
            epochs = settings.epochs_of(index, len(stage.phases))
            steps = epochs * steps_per_epoch(epoch_size(counted[number], settings.mixing), settings.batch_size)
            wanted = "fp32" if settings.precision == "fp32" else "auto"
            precision = resolve_precision(wanted, "cuda" if config.cluster.use_gpu else "cpu")
            micro = settings.batch_size // config.cluster.num_workers // settings.gradient_accumulation
            rows.append(
                PhaseRow(
                    stage=number,
                    phase=f"{stage.name}/{phase}" if len(stage.phases) > 1 else stage.name,
                    records=records,
                    epochs=epochs,
                    steps=min(steps, settings.max_steps or steps),
                    batch_size=settings.batch_size,
                    precision=precision,
                    zero_stage=settings.zero_stage,
                    trained=trained,
                    total=total,
                    **memory(trained, total, settings.zero_stage, config.cluster.num_workers),
                    activations=activations(sizes, micro, precision),
                )
            )
    return rows


def train_rows(config: RunConfig, stages: Sequence[int]) -> dict[int, dict[str, int]]:
    """Training records of each stage by source: where the data is prepared, else those that preparing it would make.

    Raises:
        PlanError: there is neither. ReaderError: a published dataset cannot be read.
    """
    if storage.exists(storage.join(config.data.dir, FILE)):
        manifest = Manifest.load(config.data.dir)
        try:
            return {stage: manifest.sources(stage, "train") for stage in stages}
        except DataError as error:
            raise PlanError(str(error)) from error
    from ember_platform.data import published
    from ember_platform.data.sources import plan

    # Annotations are read once, where no run will find what was read: a plan leaves nothing behind.
    with tempfile.TemporaryDirectory() as scratch:
        trial = config.model_copy(update={"data": config.data.model_copy(update={"dir": scratch})})
        specs = plan(trial, lambda parts: map(published.Indexer(), parts)).specs
    wanted: dict[str, Counter[str]] = {}
    for spec in specs:
        if spec.split == "train":
            wanted.setdefault(spec.stage, Counter())[spec.source] += spec.count
    for stage in stages:
        if not sum(wanted.get(stage_folder(stage), Counter()).values()):
            raise PlanError(
                f"stage {stage}: no manifest in {config.data.dir} and no data.counts; run jobs/prepare_data.py"
            )
    return {stage: dict(wanted[stage_folder(stage)]) for stage in stages}


def memory(trained: int, total: int, zero_stage: int, workers: int) -> dict[str, float]:
    """MiB per worker of weights, gradients and AdamW's two moments, all fp32, divided as ZeRO divides them."""
    share = [1, workers]
    return {
        "weights": total * 4 / share[zero_stage >= 3] / _MIB,
        "gradients": trained * 4 / share[zero_stage >= 2] / _MIB,
        "optimizer": trained * 8 / share[zero_stage >= 1] / _MIB,
    }


def activations(sizes: Any, micro_batch: int, precision: str, tokens: int = 160) -> float:
    """MiB of the decoder's activations, roughly: 34·B·T·D bytes a layer in 16 bit (Korthikanti et al., 2205.05198).

    `tokens` stands for image, task and chain of one sample; the vision encoder and the heads are left out.
    """
    text = sizes.text_config
    width, layers = int(text.hidden_size), int(text.num_hidden_layers)
    length = tokens + (sizes.image_size // 32) ** 2
    return 34 * micro_batch * length * width * layers * (1 if precision == "bf16" else 2) / _MIB


def plan_lines(config: RunConfig, numbers: list[int], start: Start) -> list[str]:
    """The plan as text."""
    cluster = config.cluster
    head = ["phase", "records", "epochs", "steps", "batch", "precision", "ZeRO", "trained", "of", "MiB a worker"]
    table = [head]
    for row in make_plan(config, numbers):
        parts = (row.weights, row.gradients, row.optimizer, row.activations)
        summed = " + ".join(f"{value:.0f}" for value in parts)
        table.append(
            [
                *(f"{row.stage} {row.phase}", f"{row.records}", f"{row.epochs}", f"{row.steps}", f"{row.batch_size}"),
                *(row.precision, f"{row.zero_stage}", f"{row.trained:,}", f"{row.total:,}"),
                f"{sum(parts):.0f} = {summed}",
            ]
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    prepared = storage.exists(storage.join(config.data.dir, FILE))
    data = "prepared" if prepared else "not prepared yet: records as the configuration has them"
    return [
        f"plan of {config.name}: {config.preset}, seed {config.seed}, output in {config.output_dir}",
        f"starts from {start.resume or start.parent or 'a new model'}",
        f"{cluster.num_workers} workers of {cluster.cpus_per_worker:g} logical CPUs{', a GPU each' * cluster.use_gpu}",
        f"data in {config.data.dir} ({data})",
        "",
        *("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in table),
        "",
        "memory: weights + gradients + AdamW's moments (fp32, divided by ZeRO) + activations of the decoder (rough:",
        "34·B·T·D bytes a layer in 16 bit, T = 160 + image tokens); vision encoder and framework come on top",
    ]
