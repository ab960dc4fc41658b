"""`photos`: does the reasoning name the place that a photograph shows?

The material is a folder with pictures and their `labels.csv` (`embervlm.world.labels`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from embervlm.world.labels import LABELS, Label, LabelError, read_labels

_HELP = f"--data is a folder of photographs with {LABELS} in it: columns file, environment and, if wanted, task"


def read_photos(folder: Path | None) -> list[Label]:
    """The photographs of a folder by its labels.

    Raises:
        MetricError: no folder, no labels, or a row that cannot be used; with the file and line, and what was expected.
    """
    if folder is None or not folder.is_dir():
        raise MetricError(f"photos: {'no --data' if folder is None else f'{folder}: no such folder'}. {_HELP}")
    try:
        photos = read_labels(folder)
    except LabelError as error:
        raise MetricError(f"photos: {error}. {_HELP}") from error
    if not photos:
        raise MetricError(f"photos: {folder / LABELS}: no rows. {_HELP}")
    return photos


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


def elsewhere(shown: Sequence[Label], seed: int) -> list[int]:
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


def _said(asker: Asker, shown: Sequence[Label], pictures: Sequence[Any]) -> list[str | None]:
    """The environment that each chain names; None where it names none."""
    fleet = default_fleet().to_dicts()
    requests = [
        {"image": picture, "task": photo.task or UNKNOWN_TASK, "fleet": fleet}
        for photo, picture in zip(shown, pictures, strict=True)
    ]
    answers = asker.select(requests, reasoning=True)
    return [parse_chain(a.get("steps") or []).get("environment", {}).get("environment") for a in answers]


def _right(sample: Sample, said: Sequence[str | None], shown: Sequence[Label]) -> Estimate:
    return sample.mean([float(name == photo.environment) for name, photo in zip(said, shown, strict=True)])
