"""`photos`: does the reasoning name the place that a photograph shows?

The material is a folder with pictures and `labels.csv`: a header `file,environment` (and `task`, if wanted), a row
per picture, the environment by EmberWorld's name for it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.data.images import open_image
from embervlm.data.prompts import UNKNOWN_TASK
from embervlm.evaluation.asking import Asker
from embervlm.evaluation.intervals import Estimate, Sample
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.suites.result import Options, SuiteResult
from embervlm.fleet import default_fleet
from embervlm.world.chains import parse_chain
from embervlm.world.ontology import ENVIRONMENTS
from embervlm.world.photos import LABELS

_HELP = f"--data is a folder of photographs with {LABELS} in it: columns file, environment and, if wanted, task"


@dataclass(frozen=True)
class Photo:
    """A picture file, the environment that it shows, and what is asked there."""

    path: Path
    environment: str
    task: str


def read_photos(folder: Path | None) -> list[Photo]:
    """The photographs of a folder by its labels.

    Raises:
        MetricError: no folder, no labels, or a row that cannot be used; with the file and line, and what was expected.
    """
    if folder is None or not folder.is_dir():
        raise MetricError(f"photos: {'no --data' if folder is None else f'{folder}: no such folder'}. {_HELP}")
    labels = folder / LABELS
    if not labels.is_file():
        raise MetricError(f"photos: {labels}: not there. {_HELP}")
    with labels.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file", "environment"} <= set(reader.fieldnames or ()):
            raise MetricError(f"photos: {labels}:1: expected the columns file and environment. {_HELP}")
        photos = [_photo(folder, row, f"photos: {labels}:{reader.line_num}") for row in reader]
    if not photos:
        raise MetricError(f"photos: {labels}: no rows. {_HELP}")
    return photos


def _photo(folder: Path, row: dict[str, Any], where: str) -> Photo:
    path, environment = folder / (row["file"] or ""), (row["environment"] or "").strip()
    if not path.is_file():
        raise MetricError(f"{where}: {path}: no such picture")
    if environment not in ENVIRONMENTS:
        raise MetricError(f"{where}: environment {environment!r} is not one of {', '.join(ENVIRONMENTS)}")
    return Photo(path, environment, (row.get("task") or "").strip() or UNKNOWN_TASK)


def photos(asker: Asker, options: Options) -> SuiteResult:
    """Share of photographs whose environment the chain names right."""
    every = read_photos(options.data)
    order = np.random.default_rng(options.seed).permutation(len(every))[: options.limit]
    shown = [every[i] for i in sorted(order.tolist())]
    pictures = [open_image(photo.path, str(photo.path)) for photo in shown]
    sample = Sample([None] * len(shown), options.seed)
    said = _said(asker, shown, pictures)
    metrics = {
        "environment": _right(sample, said, shown),
        "environment_named": sample.mean([float(name is not None) for name in said]),
    }
    baselines: dict[str, dict[str, Estimate]] = {}
    if options.baselines:
        common = Counter(photo.environment for photo in shown).most_common(1)[0][0]
        answers = {"majority": [common] * len(shown), "text_only": _said(asker, shown, [None] * len(shown))}
        if len(shown) > 1:
            answers["shuffled_image"] = _said(asker, shown, [pictures[i] for i in elsewhere(shown, options.seed)])
        baselines = {name: {"environment": _right(sample, given, shown)} for name, given in answers.items()}
    rows = [
        {"file": photo.path.name, "environment": photo.environment, "said": name}
        for photo, name in zip(shown, said, strict=True)
    ]
    return SuiteResult(
        "photos",
        f"{len(shown)} photographs of {options.data}",
        len(shown),
        metrics,
        baselines,
        ("majority is the commonest environment of these very photographs.",) if baselines else (),
        {"predictions": rows},
    )


def elsewhere(shown: Sequence[Photo], seed: int) -> list[int]:
    """For each photograph the place in the list of a random one of another environment, where there is any.

    Not its neighbour, which is likely to be of the same place: files are listed by place.
    """
    rng = np.random.default_rng(seed)
    every = range(len(shown))
    found = []
    for i in every:
        others = [j for j in every if shown[j].environment != shown[i].environment] or [j for j in every if j != i]
        found.append(int(rng.choice(others)))
    return found


def _said(asker: Asker, shown: Sequence[Photo], pictures: Sequence[Any]) -> list[str | None]:
    """The environment that each chain names; None where it names none."""
    fleet = default_fleet().to_dicts()
    requests = [
        {"image": picture, "task": photo.task, "fleet": fleet} for photo, picture in zip(shown, pictures, strict=True)
    ]
    answers = asker.select(requests, reasoning=True)
    return [parse_chain(a.get("steps") or []).get("environment", {}).get("environment") for a in answers]


def _right(sample: Sample, said: Sequence[str | None], shown: Sequence[Photo]) -> Estimate:
    return sample.mean([float(name == photo.environment) for name, photo in zip(said, shown, strict=True)])
