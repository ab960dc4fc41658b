"""`fleets`: random fleets of 2 to 40 robots in free words, many of them with a near-twin of the right one."""

from __future__ import annotations

from collections.abc import Sequence

from embervlm.data.schema import Record
from embervlm.evaluation import cues
from embervlm.evaluation.asking import Asker
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.selection import words_only
from embervlm.evaluation.suites.choosing import ask, beside, cue_answers, own_figures, rows_of
from embervlm.evaluation.suites.result import Estimates, Options, SuiteResult
from embervlm.evaluation.suites.trusting import beside_world, none_figures
from embervlm.world.lexicon.asks import ATOMS
from embervlm.world.lexicon.dataset import build
from embervlm.world.lexicon.teams import Team, team
from embervlm.world.lexicon.telling import Told

#: Records that are made where no limit is given, and training records for the words-only baseline.
MADE = 512
TRAINING = 1500
#: Abilities in which near-twins differ at most: one that was changed, and one that goes with it.
_TWIN = 2


def no_data(options: Options) -> None:
    """Refuse data: the suite makes its own.

    Raises:
        MetricError: there is some.
    """
    if options.data is not None:
        raise MetricError("--data: the suite fleets makes its own records; leave it out")


def fleets(asker: Asker, options: Options) -> SuiteResult:
    """Choosing among robots that nobody listed, beside cues that would give them away."""
    no_data(options)
    made = free_fleets("test", options.limit or MADE, options.seed)
    records = [r for r in made if r.labels]
    told, cut = asker.shortened(records)
    raw, compared = ask(asker, told, options)
    slices = {name: row for name, row in _slices(records, options.seed).items() if any(row)}
    none, unsure = none_figures(asker, told, raw, options.seed)
    baselines: dict[str, Estimates] = {}
    if options.baselines:
        train = free_fleets("train", TRAINING, options.seed)
        compared = {**compared, **words_only(records, train), **cue_answers(records)}
        baselines = beside(compared, records, options.seed, slices) | unsure
        baselines["chance"] = {
            f"first_choice{suffix}": cues.chance(
                part := [r for r, belongs in zip(records, row, strict=True) if belongs],
                Sample([None] * len(part), options.seed),
            )
            for suffix, row in [("", [True] * len(records)), *((f"_{name}", row) for name, row in slices.items())]
        }
    return SuiteResult(
        "fleets",
        f"{len(records)} fleets in free words made with seed {options.seed}, without a picture",
        len(records),
        own_figures(raw, records, options.seed, slices) | none | beside_world(asker, records, raw, options),
        baselines,
        (f"In {cut} of them a description was longer than the model reads, and was cut.",) if cut else (),
        {"predictions": rows_of(records, raw)},
    )


def free_fleets(split: str, count: int, seed: int) -> list[Record]:
    """The first `count` records of a split of the lexicon that are not about the default five."""
    found: list[Record] = []
    start = 0
    while len(found) < count:
        step = count - len(found) + 16
        found += [r for r in build(split, step, seed, start) if not r.tags["fleet"].startswith("default")]
        start += step
    return found[:count]


def _slices(records: Sequence[Record], seed: int) -> dict[str, list[bool]]:
    sizes = [len(r.robots) for r in records]
    return {
        "of_2_to_4": [size <= 4 for size in sizes],
        "of_5_to_8": [5 <= size <= 8 for size in sizes],
        "of_9_to_40": [size >= 9 for size in sizes],
        "near_twins": [_has_twins(r, seed) for r in records],
    }


def _has_twins(record: Record, seed: int) -> bool:
    """Whether a robot that cannot do it is all but the same as one that can."""
    whole = _team(record, seed)
    told = {robot.name: one for robot, one in zip(whole.robots, whole.told, strict=True)}
    able = [told[name] for name in record.labels]
    others = [told[robot["name"]] for robot in record.robots if robot["name"] not in record.labels]
    return any(_difference(one, other) <= _TWIN for one in able for other in others)


def _team(record: Record, seed: int) -> Team:
    return team(seed, record.split, int(record.tags["fleet"].rsplit("-", 1)[1]))


def _difference(one: Told, other: Told) -> int:
    """In how many abilities two robots differ, as far as their descriptions tell."""
    return sum(one.status(atom) != other.status(atom) for atom in ATOMS) + (one.kg != other.kg)
