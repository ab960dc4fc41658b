"""Whether an answer says how far it can be trusted: "none of these", calibration before and after, familiarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.data.schema import Record
from embervlm.evaluation import calibration as c
from embervlm.evaluation.asking import Asker, as_arrays, request
from embervlm.evaluation.baselines import labels_of
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.metrics import auroc, first_choice_hits
from embervlm.evaluation.suites.result import Estimates, Options
from embervlm.world.dataset import build

#: Records at most that are asked again with and without an able robot.
NONE_RECORDS = 256
#: Records of EmberWorld at most that foreign ones are set beside.
OWN = 128


def empty_fleets(records: Sequence[Record], seed: int) -> list[Record]:
    """Two records of every one that has both kinds of robot: nobody is able, and one is; fleets of the same size.

    The first keeps the robots that cannot do the task; in the second one of them is replaced by one that can. Size,
    task and picture tell nothing.
    """
    rng = np.random.default_rng(seed)
    found = []
    for record in records[:: max(1, -(-len(records) // NONE_RECORDS))]:
        can = labels_of(record)
        if can.all() or not can.any():
            continue
        unable = np.flatnonzero(~can)
        chosen = int(rng.choice(np.flatnonzero(can)))
        some = np.sort(np.append(rng.permutation(unable)[1:], chosen))
        for places, label in ((unable, []), (some, [record.robots[chosen]["name"]])):
            robots = [record.robots[i] for i in places]
            found.append(replace(record, robots=robots, labels=label, tags={"pair": record.id}))
    return found


def none_figures(
    asker: Asker, records: Sequence[Record], raw: Sequence[dict[str, Any]], seed: int
) -> tuple[Estimates, dict[str, Estimates]]:
    """How well an answer tells fleets without an able robot from others of their size, and what the first choice says.

    `none_auroc`, `none_accuracy` (at one half) and `none_ece` of `none_of_these`; the baseline is one minus the
    confidence of the first choice. Empty, and nothing more asked, where the answers `raw` have no such probability.
    """
    asked = empty_fleets(records, seed)
    if len(asked) < 4 or any(answer.get("none_of_these") is None for answer in raw):
        return {}, {}
    answers = asker.select([request(r) for r in asked])
    truth = np.array([not r.labels for r in asked])
    sample = Sample([r.tags["pair"] for r in asked], seed)
    unsure = np.array([1 - answer["robots"][0]["confidence"] for answer in answers])
    own = _told(np.array([answer["none_of_these"] for answer in answers]), truth, sample)
    return own, {"unsure_first_choice": _told(unsure, truth, sample)}


def _told(chance: NDArray[Any], truth: NDArray[Any], sample: Sample) -> Estimates:
    return {
        "none_auroc": sample.of(lambda drawn: auroc(chance[drawn], truth[drawn])),
        "none_accuracy": sample.mean(((chance > 0.5) == truth).astype(float)),
        "none_ece": sample.of(lambda drawn: c.expected_calibration_error(chance[drawn], truth[drawn])),
    }


def familiarity_figures(answers: Sequence[dict[str, Any]], hits: NDArray[np.bool_], sample: Sample) -> Estimates:
    """How familiar the records are to the model, and whether the wrong answers are to the less familiar ones.

    `familiarity`: the mean; `familiarity_error_auroc`: the chance that a wrong answer's record is less familiar than a
    right one's. Empty where the model folder has no statistics; the second is absent where all are right, or wrong.
    """
    if any(answer.get("familiarity") is None for answer in answers):
        return {}
    shares = np.array([float(answer["familiarity"]) for answer in answers])
    found = {"familiarity": sample.mean(shares)}
    wrong = ~np.asarray(hits, dtype=bool)
    if wrong.any() and not wrong.all():
        found["familiarity_error_auroc"] = sample.of(lambda drawn: auroc(-shares[drawn], wrong[drawn]))
    return found


def beside_world(asker: Asker, records: Sequence[Record], raw: Sequence[dict[str, Any]], options: Options) -> Estimates:
    """Familiarity over foreign records and as many of the model's own world: is it lower where more is wrong?"""
    if any(answer.get("familiarity") is None for answer in raw):
        return {}
    known = list(build("test", "selection", min(len(records), OWN), options.seed, options.image_size))
    every = [*records[: len(known)], *known]
    given = [*raw[: len(known)], *asker.select([request(r) for r in known], reasoning=options.reasoning)]
    hits = first_choice_hits(as_arrays(every, given).ranking, [labels_of(r) for r in every])
    found = familiarity_figures(given, hits, Sample([r.tags.get("pair") for r in every], options.seed))
    return {f"{name}_with_emberworld": value for name, value in found.items()}
