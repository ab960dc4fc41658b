"""What photographs and a teacher do for the encoder: the warm-up's training in one process, probed before and after.

    python benchmarks/eyes.py --material .material --output outputs/eyes --pictures 3000 --crops 1500 --epochs 3
    python benchmarks/eyes.py --material .material --output outputs/eyes --models outputs/stage0/final,outputs/final

Each arm starts from the same weights and sees as many pictures; `--models` probes models that are there in their place,
and `teacher` among them the teacher itself. Probed are the facts of EmberWorld's validation pictures, painted and on
photographs; the panoramas of training by crops in other directions; and those of the external test, which no arm has
seen: one half of each circle fits the probe, the other scores it, and a probe of places fitted on EmberWorld's scenes
names those of the external test's labels. With `--album`, that probe is fitted once more, on views of the album whose
place its labels say as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
from embervlm.data.schema import Record
from embervlm.evaluation.probes import Encoder, linear_probe, pooled, probe_accuracies
from embervlm.evaluation.suites.photos import read_photos
from embervlm.stages import get_stage
from embervlm.stages.teacher import load_teacher
from embervlm.world import album, crops, dataset
from embervlm.world.panoramas import HELD_OUT, Shot, panoramas, perspective

#: Arm → share of scenes on photographs, crops of panoramas among the pictures, weight of the teacher.
ARMS = {
    "painted": (0.0, False, 0.0),
    "photographs": (1.0, False, 0.0),
    "painted+teacher": (0.0, False, 1.0),
    "photographs+crops+teacher": (1.0, True, 1.0),
}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--material", type=Path, default=Path(".material"), help="the folder of `make material`")
    arguments.add_argument("--output", type=Path, default=Path("outputs/eyes"), help="where eyes.json goes")
    arguments.add_argument("--models", default="", help="in place of arms: model folders, or 'teacher', by commas")
    arguments.add_argument("--album", type=Path, help="a folder of photographs whose labels fit the places' probe, too")
    arguments.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    arguments.add_argument("--preset", default="embervlm-nano", help="whose encoder")
    arguments.add_argument("--size", type=int, default=128, help="pixels a side of a picture")
    arguments.add_argument("--pictures", type=int, default=3000, help="EmberWorld's training pictures")
    arguments.add_argument(
        "--crops", type=int, default=1500, help="crops of panoramas beside them, in arms that have any"
    )
    arguments.add_argument("--score", type=int, default=400, help="pictures that a probe is measured on")
    arguments.add_argument("--epochs", type=int, default=3, help="passes")
    arguments.add_argument("--rate", type=float, default=3e-3, help="peak learning rate of AdamW")
    arguments.add_argument("--threads", type=int, default=1, help="compute threads")
    return arguments


def external(material: str, size: int, count: int) -> list[Record]:
    """Crops all around the panoramas of the external test; `tags["picture"]` says of which."""
    records = []
    for i, name in itertools.product(range(count), HELD_OUT):
        yaw = -180 + 360 * (i + 0.5) / count
        shot = Shot(name, yaw, float(-10 + 20 * (i * 0.618 % 1)), float(60 + 30 * (i * 0.382 % 1)))
        pixels, _ = perspective(panoramas(material)[name], shot, size)
        tags = {"picture": shot.to_dict()}
        records.append(Record(f"{name}-{i}", "external", "caption", "test", pixels, "", name, tags=tags))  # type: ignore[arg-type]
    return records


def labelled(folder: Path) -> list[Record]:
    """The pictures of an external test, their response the environment that their label says."""
    return [
        Record(photo.path.name, "external", "caption", "test", photo.path.read_bytes(), "", photo.environment)
        for photo in read_photos(folder)
    ]


class TeachersEyes:
    """The teacher where the probes expect a model: its features (B, P, 1280) of the same pictures."""

    def __init__(self) -> None:
        self.teacher = load_teacher()
        self.device = torch.device("cpu")

    def eval(self) -> None:
        """Nothing: it always is."""

    def visual_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, S, S) of bytes → features."""
        return self.teacher(pixel_values).flatten(2).transpose(1, 2)


def train(
    model: EmberVLM, processor: EmberVLMProcessor, records: Sequence[Record], teacher: float, epochs: int, rate: float
) -> float:
    """The warm-up in its plainest form; the seconds of CPU that it took."""
    stage = get_stage(0, {"teacher": teacher})
    stage.prepare(model, "main")
    module = stage.module(model)
    module.train()
    batch, order = 64, np.random.default_rng(0)
    steps = epochs * (len(records) // batch)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    began, step = time.process_time(), 0
    while step < steps:
        places = order.permutation(len(records))
        for start in range(0, len(records) - batch + 1, batch):
            chosen = [records[i] for i in places[start : start + batch]]
            losses = module(stage.collate(processor, chosen, step))
            optimizer.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 25 == 0:
                told = " ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
                print(f"  step {step}/{steps}: {told}", flush=True)
    return time.process_time() - began


class Probes:
    """The pictures that every arm is probed with, made once."""

    def __init__(self, material: str, size: int, score: int, own: Path | None) -> None:
        self.worlds = {
            name: [
                list(dataset.build(split, "caption", count, 77, size, photographs=share, material=material))
                for split, count in (("train", 2 * score), ("validation", score))
            ]
            for name, share in (("painted", 0.0), ("photographs", 1.0))
        }
        counts = (("train", 2 * score), ("test", score))
        self.crops = [list(crops.build(split, count, 77, size, material)) for split, count in counts]
        self.external = external(material, size, 32)
        self.photos = labelled(Path(material, "photos"))
        self.places = list(dataset.build("train", "caption", 5 * score, 5, size, photographs=0.7, material=material))
        views = [] if own is None else album.build("train", 10 * score, 5, size, str(own.absolute()))
        self.album = [view for view in views if "scene" in view.tags]

    def measure(self, model: Encoder, processor: EmberVLMProcessor) -> dict[str, float]:
        """Every probe of an encoder."""
        found: dict[str, float] = {}
        for name, (fit, score) in self.worlds.items():
            measured = probe_accuracies(model, processor, fit, score)
            found |= {f"{name}_{key}": measured[f"probe_{key}"] for key in ("facts", "environment")}
        found["trained_panoramas"] = probe_accuracies(model, processor, *self.crops)["probe_panorama"]
        seen, names = pooled(model, processor, self.external), np.array([r.response for r in self.external])
        half = np.array([record.tags["picture"]["yaw"] < 0 for record in self.external])
        scores = [
            linear_probe(seen[a], names[a].tolist(), seen[b], names[b].tolist())
            for a, b in ((half, ~half), (~half, half))
        ]
        found["external_panoramas"] = float(np.mean(scores))
        true = [record.response for record in self.photos]
        photos = pooled(model, processor, self.photos)
        fits = {"external_places": self.places}
        if self.album:
            fits["external_places_with_album"] = [*self.places, *self.album]
        for name, records in fits.items():
            places = [record.tags["scene"]["environment"] for record in records]
            found[name] = linear_probe(pooled(model, processor, records), places, photos, true)
        return found


def main() -> None:
    """Train and probe every arm; print a table and keep the numbers."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    material, size = str(options.material.absolute()), options.size
    config = EmberVLMConfig.preset(options.preset, image_size=size)
    processor = EmberVLMProcessor.build(config, dataset.corpus(0, 400))
    probes = Probes(material, size, options.score, options.album)
    rows: dict[str, dict[str, float]] = {}
    options.output.mkdir(parents=True, exist_ok=True)
    folders = options.models.split(",") if options.models else []
    for arm in folders or ["untrained", *options.arms.split(",")]:
        torch.manual_seed(0)
        spent = {}
        if arm == "teacher":
            encoder: Encoder = TeachersEyes()
        elif folders:
            encoder, processor = EmberVLM.from_pretrained(arm), EmberVLMProcessor.from_pretrained(arm)
        else:
            encoder = model = EmberVLM.from_parts(config, len(processor.tokenizer))
        if not folders and arm in ARMS:
            share, with_crops, teacher = ARMS[arm]
            beside = options.crops if with_crops else 0
            pictures = options.pictures + (0 if with_crops else options.crops)
            records = list(dataset.build("train", "caption", pictures, 1, size, photographs=share, material=material))
            records += list(crops.build("train", beside, 1, size, material))
            print(f"{arm}: {len(records)} pictures, {options.epochs} epochs", flush=True)
            spent["cpu_seconds"] = train(model, processor, records, teacher, options.epochs, options.rate)
        rows[arm] = {**spent, **probes.measure(encoder, processor)}
        print(arm, json.dumps({k: round(v, 4) for k, v in rows[arm].items()}), flush=True)
        (options.output / "eyes.json").write_text(
            json.dumps({"options": vars(options), "arms": rows}, default=str, indent=1)
        )


if __name__ == "__main__":
    main()
