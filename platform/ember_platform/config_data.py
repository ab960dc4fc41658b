"""The data half of the run configuration: which records there are and where they go."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ember_platform.storage import absolute

WORLD_SOURCE: Literal["emberworld"] = "emberworld"
WORDS_SOURCE: Literal["emberwords"] = "emberwords"
CROPS_SOURCE: Literal["panoramas"] = "panoramas"
ALBUM_SOURCE: Literal["album"] = "album"
ROBOT_SOURCE = "robot_selection"
DataStage = Literal["stage1", "stage2", "stage3", "stage4"]
#: Formats of `data.datasets`; the robot-selection files are named by `data.robot_data`.
FormatName = Literal[
    "coco",
    "flickr30k",
    "cc3m",
    "llava_instruct",
    "vqa_v2",
    "ok_vqa",
    "mme",
    "mmbench",
    "textvqa",
    "scienceqa",
    "reasoning",
]
#: Tables of questions that have their pictures in them.
TABLES = ("mme", "mmbench", "textvqa", "scienceqa")
DATASETS: tuple[str, ...] = get_args(FormatName)
_STAGES = {
    "coco": "stage1",
    "flickr30k": "stage1",
    "cc3m": "stage1",
    "llava_instruct": "stage2",
    "vqa_v2": "stage2",
    "ok_vqa": "stage2",
    **dict.fromkeys(TABLES, "stage2"),
    "reasoning": "stage4",
}
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


#: Absolute from the beginning, because workers have another working directory.
Location = Annotated[str, Field(min_length=1), AfterValidator(absolute)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are faults, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class SplitCounts(Section):
    """How many records to make per split."""

    train: int = Field(ge=1, description="records to train on, at least 1")
    validation: int = Field(ge=1, description="records that choose the best checkpoint, at least 1")
    test: int = Field(ge=1, description="records that only the evaluation reads, at least 1")


class DatasetConfig(Section):
    """A published dataset in its own files."""

    format: FormatName | None = Field(
        default=None, description=f"how its files are read, or null: as its name says; one of {', '.join(DATASETS)}"
    )
    annotations: Location = Field(description="its annotation file (or folder of files): a path or s3://bucket/key")
    images: Location | None = Field(default=None, description="folder of its pictures, or null where it needs none")
    questions: Location | None = Field(default=None, description="VQA only: the file of questions")
    split: Literal["auto", "train", "validation", "test"] = Field(
        default="auto", description="where its records go; auto: as it says itself, else by the hash of the picture"
    )
    validation: float = Field(default=0.02, ge=0, lt=1, description="share of pictures that validate under auto")
    test: float = Field(default=0.02, ge=0, lt=1, description="share of pictures that test under auto")
    limit: int | None = Field(default=None, ge=1, description="the first so many rows only, or null: all of them")
    augment: int = Field(
        default=1, ge=1, description="reasoning only: records made of each training record, itself and other wordings"
    )
    max_bad_share: float | None = Field(
        default=None, ge=0, le=1, description="as data.max_bad_share, for this dataset; null: the same"
    )


class DataConfig(Section):
    """Where records come from and where their shards go."""

    dir: Location = Field(
        default="outputs/data", description="folder of shards and manifest: a path or s3://bucket/prefix"
    )
    sources: list[Literal["emberworld", "emberwords", "panoramas", "album"]] = Field(
        default=[WORLD_SOURCE],
        description="datasets made here: emberworld (pictures, all stages), emberwords (tasks and fleets in free "
        "words, stage 3), panoramas (crops of photographs with captions, stages 0 and 1; needs data.material), album "
        "(views of one's own photographs, stages 0 and 1; needs data.album), or [] where only others are read",
    )
    words: SplitCounts = Field(
        default=SplitCounts(train=10_000, validation=384, test=768),
        description="how many records of emberwords per split, where it is one of the sources",
    )
    photographs: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of EmberWorld's scenes on photographs where one shows the place, 0 to 1; above 0 every "
        "picture goes through a camera (blur, noise, JPEG), and data.material must be there",
    )
    bare: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the training records of stages 3 and 4 whose picture is a photograph of the place alone, "
        "where one shows it: the reasoning then learns to name it by the photograph; needs data.photographs above 0",
    )
    material: Location = Field(
        default=".material", description="folder of the photographs that `make material` installs; read above 0 only"
    )
    panoramas: SplitCounts = Field(
        default=SplitCounts(train=2000, validation=220, test=110),
        description="how many crops of panoramas per split, where they are one of the sources",
    )
    album: Location | None = Field(
        default=None,
        description="folder of one's own photographs, or null; those whose place its labels.csv (file, environment) "
        "says are backgrounds of EmberWorld's scenes too, where data.photographs is above 0",
    )
    views: SplitCounts = Field(
        default=SplitCounts(train=4000, validation=220, test=110),
        description="how many views of the album per split, where it is one of the sources",
    )
    datasets: dict[DatasetName, DatasetConfig] = Field(
        default={}, description="name → a published dataset to ingest as well; the name is its source in mixing"
    )
    image_size: int = Field(default=224, ge=32, le=1024, multiple_of=32, description="pixels a side, a multiple of 32")
    counts: dict[DataStage, SplitCounts] = Field(
        default={}, description="stage1 … stage4 → train, validation, test; stage 0 reads stage 1's records"
    )
    robot_data: Location | None = Field(
        default=None, description="a robot-selection JSON file, or a folder of them; read as stage-3 records, or null"
    )
    robot_folds: int = Field(default=5, ge=2, description="folds that robot_data's tasks are cut into, at least 2")
    robot_fold: int = Field(default=0, ge=0, description="the fold that is the test split, 0 to robot_folds - 1")
    robot_validation: float = Field(
        default=0.125,
        gt=0,
        le=0.5,
        multiple_of=0.125,
        description="share of the other folds' tasks that validate, in eighths; a sweep over few tasks needs more",
    )
    robot_augment: int = Field(
        default=1, ge=1, description="records made of each training record of robot_data: itself and other wordings"
    )
    max_bad_share: float = Field(
        default=0.01, ge=0, le=1, description="share of rows in quarantine, 0 to 1, past which the ingest stops"
    )
    max_image_pixels: int = Field(default=40_000_000, ge=1, description="largest picture that is decoded, in pixels")
    shard_rows: int = Field(default=512, ge=1, description="rows of a shard, at least 1")
    workers: int = Field(default=2, ge=1, description="ingest and collate tasks at once, at least 1")
    loader: Literal["ray_data", "actor"] = Field(
        default="ray_data",
        description="ray_data (a streaming pipeline per worker; decoding scales over the cluster) or actor (processes "
        "of our own beside each worker; less overhead on few cores). The batches are the same",
    )
    feature_cache: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="features of a frozen encoder computed once and read from then on: on, off, or auto (where "
        "training is bf16 and a measurement says that it pays)",
    )
    prefetch: int = Field(default=4, ge=1, description="batches made ahead of the training step, per worker")

    def format_of(self, name: str) -> str:
        """The format of a dataset."""
        return self.datasets[name].format or name

    def stages_of(self, source: str) -> list[str]:
        """The stages whose records a source has."""
        if source == WORLD_SOURCE:
            return list(self.counts)
        if source in (CROPS_SOURCE, ALBUM_SOURCE):
            return ["stage1"]
        return ["stage3" if source in (ROBOT_SOURCE, WORDS_SOURCE) else _STAGES[self.format_of(source)]]
