"""The feature cache: a frozen vision encoder reads every training picture once, and training reads what it saw.

Features are kept beside the data in a folder named after the encoder's weights and the way a picture becomes its input,
one file per shard named after the shard's content. So stages, runs and sweeps that share an encoder share them, another
encoder never sees them, and an interrupted computation goes on with the shards that are missing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ember_platform import storage
from ember_platform.config import RunConfig
from ember_platform.data import feature_rows
from ember_platform.data.manifest import Manifest
from ember_platform.data.rows import Rows
from ember_platform.train import folders
from ember_platform.train.setup import device_of, load_model, threads_of

_FORMAT = 1
_BATCH = 32
#: Pictures that `auto` measures; the least seconds that it wants to win, as starting the actors costs some; and how
#: often pictures must be read again before it measures at all.
_MEASURED, _WORTHWHILE_S, _LEAST_REPEATS = 64, 20.0, 1000
_CHOICE = "features.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What is to be encoded: a stage's training shards by a model's encoder, into the folder `target`."""

    config: RunConfig
    manifest: Manifest
    stage: int
    model: str
    target: str


class Runner(Protocol):
    """Where the encoder runs: on the cluster (`OnRay`)."""

    def call(self, job: Job, function: Callable[[Job], Any]) -> Any: ...

    def encode(self, job: Job, shards: Sequence[int]) -> Iterable[dict[str, Any]]: ...


@dataclass(frozen=True)
class Measured:
    """Seconds a picture: to decode and encode it, and to read its features. Bytes of its features."""

    encode: float
    read: float
    bytes: int

    def gain(self, pictures: int, missing: int, epochs: int) -> float:
        """Seconds that the cache saves over so many epochs: each encodes all anew, or reads what is encoded once."""
        return epochs * pictures * (self.encode - self.read) - missing * self.encode


def prepare(
    config: RunConfig,
    stage: int,
    manifest: Manifest,
    model: str,
    *,
    trainings: int = 1,
    runner: Runner | None = None,
    say: Say = print,
) -> str | None:
    """Make the features of a stage's training pictures, or find them made, where the configuration wants them.

    Args:
        config: `data.feature_cache` says on, off, or auto: where a measurement says that it pays.
        stage: 0 to 4.
        manifest: of the data that the stage reads.
        model: folder of the model that the stage starts from.
        trainings: of the stage that will read them.
        runner: how shards are encoded; the default is a Ray Data job on the running cluster.
        say: takes lines of progress.

    Returns:
        The folder with the features, or None where the stage encodes its pictures itself.
    """
    epochs = trainings * frozen_epochs(config, stage)
    if config.data.feature_cache == "off" or epochs == 0:
        return None
    runner = runner or OnRay()
    auto = config.data.feature_cache == "auto"
    if auto and (epochs - 1) * manifest.rows(stage, "train") < _LEAST_REPEATS:
        return None
    key = runner.call(Job(config, manifest, stage, model, ""), key_of)
    job = Job(config, manifest, stage, model, storage.join(manifest.dir, f"features-{key[:16]}"))
    files = [feature_rows.file_of(job.target, shard.sha256) for shard in manifest.select(stage, "train")]
    missing = [number for number, file in enumerate(files) if not storage.exists(file)]
    if auto and not _chosen(job, missing, epochs, runner, say):
        return None
    if missing:
        started = time.monotonic()
        for done, _ in enumerate(runner.encode(job, missing), 1):
            say(f"stage {stage}: pictures of {done}/{len(missing)} shards encoded")
        say(f"stage {stage}: features in {job.target}, made in {time.monotonic() - started:.0f} s")
    return job.target


def frozen_epochs(config: RunConfig, stage: int) -> int:
    """Epochs of a stage in which the vision encoder is frozen."""
    from embervlm.stages import get_stage

    made, settings = get_stage(stage), config.stage(stage)
    frozen = [i for i, phase in enumerate(made.phases) if phase not in made.trains_vision]
    return sum(settings.epochs_of(i, len(made.phases)) for i in frozen)


def key_of(job: Job) -> str:
    """sha256 (hex) of the model's vision encoder and of the way a picture becomes its input."""
    from embervlm.data import images

    with folders.fetched(job.model) as local:
        loaded, processor = load_model(local)
    total = hashlib.sha256()
    transform = [_FORMAT, processor.image_size, images.MAX_ASPECT, loaded.config.image_mean, loaded.config.image_std]
    total.update(json.dumps([loaded.config.vision_name, loaded.config.vision_args, transform]).encode())
    for name, value in sorted(loaded.vision.backbone.state_dict().items()):
        total.update(name.encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()


def _chosen(job: Job, missing: list[int], epochs: int, runner: Runner, say: Say) -> bool:
    """What `auto` chose for this run: once, so that a run that goes on does as it did."""
    place = storage.join(folders.stage_dir(job.config.output_dir, job.stage), _CHOICE)
    question = [job.target, job.manifest.stage_digest(job.stage), frozen_epochs(job.config, job.stage)]
    asked = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    before = folders.read_json(place)
    if before is not None and before.get("asked") == asked:
        return bool(before["use"])
    use, why = runner.call(job, functools.partial(choose, missing=missing, epochs=epochs))
    say(f"stage {job.stage}: features of the frozen encoder are {'kept' if use else 'not kept'}: {why}")
    folders.write_json(place, {"asked": asked, "use": use, "why": why})
    return use


def choose(job: Job, missing: list[int], epochs: int) -> tuple[bool, str]:
    """Whether the cache pays here, by a measurement on a few of the pictures, and the reason in words."""
    from ember_platform.train.precision import resolve_precision

    settings = job.config.stage(job.stage)
    if resolve_precision(settings.precision, device_of(job.config)) != "bf16":
        return False, "the stage trains in fp32, and they would be bf16"
    shards = job.manifest.select(job.stage, "train")
    if not missing:
        return True, "they are there"
    found = measure(job)
    pictures, to_make = sum(shard.rows for shard in shards), sum(shards[number].rows for number in missing)
    gain = found.gain(pictures, to_make, epochs)
    figures = (
        f"{1e3 * found.encode:.1f} ms to encode a picture, {1e3 * found.read:.2f} ms to read it, {epochs} epochs of "
        f"{pictures} pictures ({to_make} not encoded yet), {to_make * found.bytes / 2**20:.0f} MiB"
    )
    return gain > _WORTHWHILE_S, f"{figures}: {gain:.0f} s of encoding saved, {_WORTHWHILE_S:.0f} s are wanted"


def measure(job: Job) -> Measured:
    """Seconds a picture on this machine, in this process: encoding as training would, and reading."""
    encoder = Encoder(job)
    paths = job.manifest.paths(job.stage, "train")
    records = Rows(paths)[: 2 * _MEASURED]
    pictures = [record.image for record in records if record.image is not None]
    if len(pictures) < 2:
        return Measured(0.0, 0.0, 0)
    encoder.encode(pictures[: len(pictures) // 2])  # the first time is slower
    started = time.perf_counter()
    made = encoder.encode(pictures[len(pictures) // 2 :])
    encode = (time.perf_counter() - started) / len(made)
    with tempfile.TemporaryDirectory(prefix="embervlm-features-") as folder:
        file = os.path.join(folder, "measured.arrow")
        feature_rows.write(file, made, made[0].shape)
        started = time.perf_counter()
        for feature in feature_rows.FeatureRows([file]).take(range(len(made))):
            np.array(feature)
        read = (time.perf_counter() - started) / len(made)
    return Measured(encode, read, made[0].nbytes)


class OnRay:
    """The running cluster, with the resources of a training worker."""

    def call(self, job: Job, function: Callable[[Job], Any]) -> Any:
        """One task."""
        import ray

        from ember_platform.data.rayed import ensure_ray

        ensure_ray(job.config)
        cluster = job.config.cluster
        options = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus}
        task: Any = ray.remote(_called).options(**options)  # Ray takes functions only, no partial
        return ray.get(task.remote(function, job))

    def encode(self, job: Job, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Ray Data actors, as many as there are training workers."""
        import ray

        from ember_platform.data.rayed import ensure_ray, quiet

        ensure_ray(job.config)
        quiet()
        cluster = job.config.cluster
        dataset = ray.data.from_items([{"shard": n} for n in shards], override_num_blocks=len(shards)).map(
            Encoder,  # type: ignore[arg-type]
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=min(cluster.num_workers, len(shards))),
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus or None,
        )
        yield from dataset.iter_rows()


def _called(function: Callable[[Job], Any], job: Job) -> Any:
    return function(job)


class Encoder:
    """Encodes the pictures of shards with a fused encoder, in bf16 where the processor has it; one per actor."""

    def __init__(self, job: Job) -> None:
        import torch

        from ember_platform.train.precision import resolve_precision

        torch.set_num_threads(threads_of(job.config, job.config.cluster.num_workers))
        self.job = job
        with folders.fetched(job.model) as local:
            model, self.processor = load_model(local)
        self.device = torch.device(device_of(job.config))
        self.bf16 = resolve_precision("auto", self.device.type) == "bf16"
        self.vision = model.vision.to(self.device).eval()
        self.shape = (model.config.image_tokens, model.vision.width)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode one shard, or find it encoded."""
        shard = self.job.manifest.select(self.job.stage, "train")[row["shard"]]
        path = feature_rows.file_of(self.job.target, shard.sha256)
        if not storage.exists(path):
            records = Rows([storage.join(self.job.manifest.dir, shard.path)])
            places = [i for i, record in enumerate(records) if record.image is not None]
            made: list[np.ndarray | None] = [None] * len(records)
            for start in range(0, len(places), _BATCH):
                part = places[start : start + _BATCH]
                pictures = [record.image for record in records.take(part)]
                for place, feature in zip(part, self.encode(pictures), strict=True):
                    made[place] = feature
            feature_rows.write(path, made, self.shape)
        return {"shard": row["shard"]}

    def encode(self, pictures: Sequence[Any]) -> list[np.ndarray]:
        """Pictures → features (P, V) as bits of bfloat16 (uint16)."""
        import torch

        from ember_platform.train.engine import autocast

        made: list[np.ndarray] = []
        for start in range(0, len(pictures), _BATCH):
            pixels = self.processor.images(pictures[start : start + _BATCH])["pixel_values"].to(self.device)
            with torch.inference_mode(), autocast(self.device.type, self.bf16):
                features = self.vision(pixels).to(torch.bfloat16).cpu().contiguous()
            made += list(features.view(torch.int16).numpy().view(np.uint16))
        return made
