"""The typed run configuration: one YAML file, dotted overrides, errors that name the field.

`load_config("configs/laptop.yaml", ["stages.3.learning_rate=1e-4"])` gives a `RunConfig`; every field is
described where it is declared, and its description is what an error message quotes as allowed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ember_platform.config_data import (
    ALBUM_SOURCE,
    CROPS_SOURCE,
    DATASETS,
    ROBOT_SOURCE,
    TABLES,
    WORDS_SOURCE,
    WORLD_SOURCE,
    DataConfig,
    DatasetConfig,
    Location,
    Section,
)
from ember_platform.config_serving import ServingConfig
from ember_platform.config_yaml import ConfigError, apply_overrides, explain, fault, read

__all__ = [
    "ALBUM_SOURCE",
    "CROPS_SOURCE",
    "ROBOT_SOURCE",
    "WORDS_SOURCE",
    "WORLD_SOURCE",
    "ClusterConfig",
    "ConfigError",
    "DataConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "FiguresConfig",
    "RegistryConfig",
    "RunConfig",
    "ServingConfig",
    "StageConfig",
    "TeacherConfig",
    "TrackingConfig",
    "load_config",
]

StageKey = Literal["0", "1", "2", "3", "4"]


class ClusterConfig(Section):
    """The share of the Ray cluster that a run takes."""

    address: str = Field(default="auto", min_length=1, description="auto, local, or host:port of a Ray cluster")
    num_workers: int = Field(default=2, ge=1, description="training workers, at least 1")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="logical CPUs of a worker, above 0")
    use_gpu: bool = Field(default=False, description="one GPU per worker: true or false")
    gpu_share: float = Field(
        default=1.0, gt=0, le=1, description="of a GPU, 0 to 1: below 1 a sweep's trials of one worker each share GPUs"
    )
    threads_per_worker: int | Literal["auto"] = Field(
        default="auto", description="compute threads of a worker, at least 1, or auto (its share of the cores)"
    )
    max_failures: int = Field(
        default=3,
        ge=-1,
        description="failures in a row, with no new checkpoint between them, that a stage survives; -1 is no limit",
    )
    min_workers: int | None = Field(
        default=None,
        ge=1,
        description="training workers to go on with where the cluster has no room for num_workers, or null: wait",
    )
    storage_patience: float = Field(
        default=300.0, ge=0, description="seconds that a checkpoint is tried again where storage refuses it"
    )

    @model_validator(mode="after")
    def _threads(self) -> ClusterConfig:
        if self.threads_per_worker != "auto" and self.threads_per_worker < 1:
            raise fault("cluster.threads_per_worker", "a worker needs at least one thread")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise fault("cluster.min_workers", f"{self.min_workers} is more than num_workers ({self.num_workers})")
        if self.gpu_share < 1 and self.num_workers > 1:
            raise fault("cluster.gpu_share", "workers that train together need a GPU each (NCCL); use num_workers=1")
        return self

    @property
    def gpus(self) -> float:
        """GPUs of a worker."""
        return self.gpu_share if self.use_gpu else 0.0


class EarlyStop(Section):
    """Stop a stage when its validation metric no longer improves."""

    patience: int = Field(ge=1, description="validations without improvement before the stage stops, at least 1")
    min_delta: float = Field(default=0.0, ge=0, description="the least change that counts as improvement, at least 0")


class StageConfig(Section):
    """One training stage."""

    epochs: int = Field(ge=1, description="passes over the training records, at least 1")
    phase_epochs: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="stage 4 only: [modules, joint], their sum being epochs; null halves the epochs"
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="optimizer steps per phase at most (the schedule ends there), or null"
    )
    batch_size: int = Field(
        ge=1,
        description="GLOBAL batch: samples per optimizer step over all workers, a multiple of workers × accumulation",
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="micro-batches per step and worker, at least 1")
    learning_rate: float | list[float] = Field(
        description="peak learning rate above 0, or a list of one per phase (stage 4: two)"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="adamw, or muon (Muon for hidden matrices, AdamW for the rest; needs zero_stage 0)",
    )
    pretrained_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="learning rate of parts that were pretrained (model.language, model.vision_weights) as a share of "
        "learning_rate, 0 to 1",
    )
    pretrained_frozen: int = Field(
        default=0,
        ge=0,
        description="lowest layers of a pretrained text side that do not train, nor do its embeddings; 0: all train",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay of matrices, at least 0")
    warmup_ratio: float = Field(default=0.05, ge=0, le=1, description="share of the steps that warm up, 0 to 1")
    min_lr_ratio: float = Field(
        default=0.1, ge=0, le=1, description="last learning rate as a share of the peak, 0 to 1"
    )
    restarts: list[Annotated[int, Field(ge=1)]] = Field(
        default=[],
        description="epochs of the stage after which the learning rate, fallen to its last, begins anew; []: none",
    )
    clip: float = Field(default=1.0, ge=0, description="gradient norm limit; 0 is none")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto (bf16 where the processor has it), bf16 or fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage: 0, 1, 2 or 3")
    eval_every: int | None = Field(default=None, ge=1, description="steps between validations, or null: each epoch")
    eval_samples: int | None = Field(default=None, ge=1, description="validation records read, or null: all of them")
    save_every: int | None = Field(default=None, ge=1, description="steps between checkpoints, or null: each epoch")
    keep: int = Field(default=2, ge=1, description="checkpoints kept beside the best, at least 1")
    log_every: int = Field(default=10, ge=1, description="steps between logged losses, at least 1")
    best: str | None = Field(
        default=None, description="validation metric by which the best model is kept, or null: the stage's own"
    )
    early_stop: EarlyStop | None = Field(default=None, description="patience and min_delta, or null: never")
    mixing: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="source → passes over its records per epoch (0.5: half of them, 2: each twice); not named: 1",
    )
    losses: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="weights of the stage's loss terms by name; not named: the stage's own"
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="stage 0 with a teacher only: share of the photographs that are blended with another, 0 to 1",
    )

    @property
    def phases(self) -> int:
        """The number of phases that the settings name."""
        return len(self.phase_epochs) if self.phase_epochs is not None else 1

    def epochs_of(self, phase: int, phases: int) -> int:
        """Epochs of the phase with this index, of a stage with so many phases."""
        if phases == 1:
            return self.epochs
        if self.phase_epochs is not None:
            return self.phase_epochs[phase]
        return self.epochs - self.epochs // 2 if phase == phases - 1 else self.epochs // 2 // (phases - 1)

    def learning_rate_of(self, phase: int) -> float:
        """Peak learning rate of the phase with this index."""
        return self.learning_rate[phase] if isinstance(self.learning_rate, list) else self.learning_rate


class TrackingConfig(Section):
    """Where metrics go."""

    mlflow_uri: str | None = Field(default=None, description="MLflow tracking URI, or null: SQLite in output_dir")
    experiment: str = Field(default="embervlm", min_length=1, description="MLflow experiment, a text that is not empty")
    wandb_project: str | None = Field(default=None, description="Weights & Biases project, or null: not used")
    wandb_mode: Literal["auto", "offline", "online", "disabled"] = Field(
        default="auto", description="auto (online where a key is set, else offline), offline, online or disabled"
    )


class TeacherConfig(Section):
    """Offline distillation of stage 2; what the teacher weighs in the loss is `stages.2.losses.distillation`."""

    model: Location | None = Field(
        default=None,
        description="folder of the teacher: an EmberVLM, or any transformers model that reads pictures and text, or "
        "text alone; null: no distillation",
    )
    match: Literal["auto", "text", "kl", "transport"] = Field(
        default="auto",
        description="what is learned: the teacher's words (text), its distribution over an equal vocabulary (kl) or, "
        "sorted, over any (transport); auto: kl where the vocabulary is equal, else text",
    )
    top_k: int = Field(default=16, ge=1, description="log-probabilities kept per token, at least 1")


class UpperConfig(Section):
    """The text side's highest layers, which train with the readers of words once those are trained."""

    layers: int = Field(ge=1, description="how many of the highest layers, at least 1")
    steps: int = Field(default=120, ge=1, description="optimizer steps, at least 1")
    learning_rate: float = Field(default=3e-4, gt=0, description="peak learning rate of the readers, above 0")
    pretrained_rate: float = Field(
        default=0.2, gt=0, le=1, description="that of the layers as a share of learning_rate, above 0, at most 1"
    )
    clip: float = Field(default=1.0, ge=0, description="gradient norm limit; 0 is none")
    eval_every: int = Field(default=40, ge=1, description="steps between validations, at least 1")


class WordsConfig(Section):
    """Readers of words, trained on a frozen text side (jobs/train_words.py) with stage 3's records and losses."""

    steps: int = Field(default=1200, ge=1, description="optimizer steps, at least 1")
    batch_size: int = Field(default=64, ge=1, description="tasks of a step, at least 1")
    learning_rate: float = Field(default=4e-3, gt=0, description="peak learning rate, above 0")
    weight_decay: float = Field(default=0.5, ge=0, description="weight decay of matrices, at least 0")
    warmup_ratio: float = Field(default=0.05, ge=0, le=1, description="share of the steps that warm up, 0 to 1")
    min_lr_ratio: float = Field(
        default=0.05, ge=0, le=1, description="last learning rate as a share of the peak, 0 to 1"
    )
    word_dropout: float = Field(default=0.15, ge=0, lt=1, description="share of tokens that a step does not see")
    state_dropout: float = Field(default=0.2, ge=0, lt=1, description="share of the states' entries set to zero")
    eval_every: int = Field(default=200, ge=1, description="steps between validations, at least 1")
    upper: UpperConfig | None = Field(
        default=None, description="layers of the text side that then train too, how and for how long; null: none"
    )

    @property
    def all_steps(self) -> int:
        """Optimizer steps in all."""
        return self.steps + (self.upper.steps if self.upper is not None else 0)


class EvaluationConfig(Section):
    """What is measured on the test split."""

    samples: int | None = Field(default=None, ge=1, description="test records read per stage, or null: all of them")
    batch_size: int = Field(default=64, ge=1, description="records per forward pass, at least 1")
    baselines: bool = Field(default=True, description="measure the baselines too: true or false")


class FiguresConfig(Section):
    """Figures, reports and the energy that a run takes."""

    enabled: bool = Field(default=True, description="measure and draw after each stage: true or false")
    snapshots: int = Field(
        default=3, ge=0, description="weights kept within a phase for its figures, removed once measured; 0 is none"
    )
    safe_colors: bool = Field(default=False, description="colours that everybody can tell apart: true or false")
    ablation_steps: int = Field(
        default=0, ge=0, description="optimizer steps of each training without one part, for its figure; 0 is none"
    )
    distillation_steps: int = Field(
        default=0,
        ge=0,
        description="optimizer steps of a stage 2 taught by the run's own, for its figure where the run has no teacher",
    )
    country: str = Field(
        default="USA", pattern=r"^[A-Z]{3}$", description="three-letter code of the country whose grid the energy is of"
    )


class GateConfig(Section):
    """What a challenger must show to become champion."""

    metric: str = Field(
        default="first_choice", min_length=1, description="test metric on which it must beat the champion"
    )
    min_gain: float = Field(default=0.0, description="the least gain over the champion's metric")
    at_least: dict[str, float] = Field(default={}, description="test metric → its least value")
    at_most: dict[str, float] = Field(default={"ece": 0.1}, description="test metric → its greatest value")


class RegistryConfig(Section):
    """Names in the model registry, and the gate."""

    prefix: str = Field(
        default="embervlm",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="letters, digits, dot, dash, underscore",
    )
    gate: GateConfig = Field(default=GateConfig(), description="thresholds for promotion")


class RunConfig(Section):
    """Everything that decides a run."""

    name: str = Field(default="embervlm", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="letters, digits, . - _")
    seed: int = Field(default=0, ge=0, lt=2**31, description="a whole number from 0 to 2147483647")
    output_dir: Location = Field(default="outputs", description="what the run leaves: a path or s3://bucket/prefix")
    preset: str = Field(
        default="embervlm-37m",
        min_length=1,
        description="a preset: embervlm-nano, embervlm-37m, embervlm-37m-scratch (no pretrained words), embervlm-48m",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto, cpu or cuda")
    model: dict[str, Any] = Field(default={}, description="fields of EmberVLMConfig that differ from the preset")
    data: DataConfig = Field(default=DataConfig(), description="records and shards")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="workers and their resources")
    stages: dict[StageKey, StageConfig] = Field(default={}, description='"0" … "4" → the settings of that stage')
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="MLflow and Weights & Biases")
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="distillation of stage 2")
    words: WordsConfig = Field(default=WordsConfig(), description="readers of words on a frozen text side")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="the test split")
    figures: FiguresConfig = Field(default=FiguresConfig(), description="figures, reports, energy")
    registry: RegistryConfig = Field(default=RegistryConfig(), description="names and the gate")
    serving: ServingConfig = Field(default=ServingConfig(), description="the endpoint")

    @model_validator(mode="after")
    def _across(self) -> RunConfig:
        """What no single field can know."""
        if not self.sources:
            raise fault(
                "data.sources", "empty, and neither data.datasets nor data.robot_data is set: there is nothing to read"
            )
        _check_data(self.data)
        served = {stage for name in self.sources for stage in self.data.stages_of(name)}
        for key, stage in self.stages.items():
            _check_stage(key, stage, self)
            needed = f"stage{max(int(key), 1)}"
            if needed not in served:
                raise fault(
                    "data.counts",
                    f"stage {key} is configured and no source has records for it: give data.counts.{needed} for "
                    f"emberworld, name a dataset that serves it, or leave the stage out",
                )
        return self

    @property
    def sources(self) -> list[str]:
        """Every source of records: EmberWorld, the datasets by name, the robot-selection files."""
        return [*self.data.sources, *self.data.datasets, *([ROBOT_SOURCE] if self.data.robot_data else [])]

    def stage(self, number: int) -> StageConfig:
        """The settings of a stage.

        Raises:
            ConfigError: the configuration has no such stage.
        """
        stage = self.stages.get(str(number))  # type: ignore[call-overload]
        if stage is None:
            have = ", ".join(sorted(self.stages)) or "none"
            raise ConfigError(f"stages.{number}: not in the configuration; stages there: {have}")
        return stage

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of everything that a run depends on: how it is served is no part of it."""
        return _digest(self.model_dump(mode="json", exclude={"serving"}))

    def stage_digest(self, number: int) -> str:
        """sha256 (hex) of what influences the weights of a stage, its data and its parent aside.

        Where things are stored, how they are tracked and how often they are saved or logged do not; nor does the
        number of workers, which changes neither the order of samples nor the global batch.
        """
        stage = self.stage(number).model_dump(mode="json", exclude={"keep", "save_every", "log_every"})
        for name, usual in (("pretrained_rate", 1), ("pretrained_frozen", 0), ("best", None), ("restarts", [])):
            if stage[name] == usual:
                del stage[name]  # as before there was such a field
        # A weight of 1 is what a source has that is not named.
        stage["mixing"] = {source: weight for source, weight in stage["mixing"].items() if weight != 1}
        as_ever = {"match"} if self.teacher.match == "auto" else set()
        teacher = self.teacher.model_dump(mode="json", exclude=as_ever) if number == 2 else None
        return _digest(
            {
                "seed": self.seed,
                "preset": self.preset,
                "model": self.model,
                "number": number,
                "stage": stage,
                "teacher": teacher,
            }
        )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_data(data: DataConfig) -> None:
    """The fields of the data against each other."""
    if data.robot_fold >= data.robot_folds:
        raise fault("data.robot_fold", f"{data.robot_fold} is no fold of {data.robot_folds}")
    if data.bare and not data.photographs:
        raise fault("data.bare", f"{data.bare:g} of the pictures are photographs, and data.photographs is 0")
    for name, dataset in data.datasets.items():
        at = f"data.datasets.{name}"
        if name in (WORLD_SOURCE, WORDS_SOURCE, CROPS_SOURCE, ALBUM_SOURCE, ROBOT_SOURCE, "shard"):
            raise fault(at, "this name is taken; robot-selection files are named by data.robot_data")
        if dataset.format is None and name not in DATASETS:
            raise fault(f"{at}.format", f"{name!r} is no format, so one must be given: {', '.join(DATASETS)}")
        form = data.format_of(name)
        if form in ("vqa_v2", "ok_vqa") and dataset.questions is None:
            raise fault(
                f"{at}.questions", f"{form} has questions and annotations in two files, and this one is missing"
            )
        if form not in ("reasoning", "cc3m", *TABLES) and dataset.images is None:
            raise fault(f"{at}.images", f"{form} needs the folder of its pictures")
        if dataset.augment > 1 and form != "reasoning":
            raise fault(f"{at}.augment", "only tasks have other wordings (reasoning; data.robot_augment)")
        if dataset.validation + dataset.test >= 1:
            raise fault(f"{at}.test", "validation and test together leave nothing to train on")


def _check_stage(key: str, stage: StageConfig, config: RunConfig) -> None:
    """The fields of a stage against each other, the cluster and the data."""
    at = f"stages.{key}"
    if stage.phase_epochs is not None:
        if key != "4":
            raise fault(f"{at}.phase_epochs", "only stage 4 has phases")
        if len(stage.phase_epochs) != 2 or sum(stage.phase_epochs) != stage.epochs:
            raise fault(f"{at}.phase_epochs", f"two numbers whose sum is epochs ({stage.epochs}) are needed")
    rates = stage.learning_rate if isinstance(stage.learning_rate, list) else [stage.learning_rate]
    phases = 2 if key == "4" else 1
    if isinstance(stage.learning_rate, list) and len(rates) != phases:
        raise fault(f"{at}.learning_rate", f"stage {key} has {phases} phase(s), and {len(rates)} rates are given")
    if min(rates) <= 0:
        raise fault(f"{at}.learning_rate", f"must be above 0, and {min(rates)} is not")
    share = config.cluster.num_workers * stage.gradient_accumulation
    if stage.batch_size % share:
        raise fault(
            f"{at}.batch_size",
            f"{stage.batch_size} does not divide by cluster.num_workers × gradient_accumulation ({share})",
        )
    if stage.optimizer == "muon" and stage.zero_stage:
        raise fault(
            f"{at}.optimizer",
            f"muon updates whole matrices, which zero_stage {stage.zero_stage} takes apart; use zero_stage 0 or adamw",
        )
    unknown = sorted(set(stage.mixing) - set(config.sources))
    if unknown:
        raise fault(f"{at}.mixing", f"{unknown[0]!r} is no source of this run; there are {', '.join(config.sources)}")
    serving = [source for source in config.sources if f"stage{max(int(key), 1)}" in config.data.stages_of(source)]
    idle = sorted(set(stage.mixing) - set(serving))
    if idle:
        raise fault(f"{at}.mixing", f"{idle[0]!r} has no records for stage {key}; it is served by {', '.join(serving)}")
    if stage.mixing and not any(stage.mixing.get(source, 1.0) for source in serving):
        raise fault(f"{at}.mixing", "every source has weight 0, so there is nothing to train on")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply dotted overrides (`a.b=value`, YAML values), check everything.

    Relative paths in it count as `storage.absolute` says: from where the user is.

    Raises:
        ConfigError: one line per fault, with file and line (or override), dotted key and what is allowed.
    """
    data, origins = read(path)
    apply_overrides(data, overrides, origins)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, RunConfig, origins, str(path)) from error
