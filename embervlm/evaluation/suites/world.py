"""`world` and `counterfactual`: EmberWorld's test split, of a run's data folder or made anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from embervlm.data.schema import Record
from embervlm.data.shards import read_split
from embervlm.evaluation.asking import Asker, subset
from embervlm.evaluation.intervals import Sample
from embervlm.evaluation.metrics import MetricError
from embervlm.evaluation.selection import words_only
from embervlm.evaluation.suites.choosing import ask, beside, own_figures, rows_of, slices_of
from embervlm.evaluation.suites.result import Options, SuiteResult
from embervlm.evaluation.suites.trusting import none_figures
from embervlm.world.dataset import SOURCE

#: Records that a suite makes where there is no data folder.
MADE = 512
#: Training records that the word and majority baselines learn from, at most.
TRAINING = 4000
_STAGE = 3


def world(asker: Asker, options: Options) -> SuiteResult:
    """Choosing on EmberWorld's test split: all of it, unseen wordings, unseen robots, pairs, calibration."""
    records, train, source = _records(options)
    records = subset([r for r in records if r.labels], options.limit, options.seed)
    return _measured("world", asker, records, train, source, options)


def counterfactual(asker: Asker, options: Options) -> SuiteResult:
    """Twins that share every word and differ in the scene: right only where both are."""
    records, train, source = _records(options)
    pairs = Counter(r.tags.get("pair") for r in records)
    twins = [r for r in records if r.tags.get("pair") is not None and pairs[r.tags["pair"]] > 1]
    twins = subset(twins, options.limit, options.seed)
    if not twins:
        raise MetricError(f"counterfactual: no pair of twins among {len(records)} records of {source}")
    return _measured("counterfactual", asker, twins, train, source, options)


def _records(options: Options) -> tuple[list[Record], list[Record] | None, str]:
    """Test records, training records without pictures where there are any, and where both are from."""
    if options.data is not None:
        train = read_split(options.data, _STAGE, "train", images=False, most=TRAINING) if options.baselines else None
        found = read_split(options.data, _STAGE, "test")
        # A run may have read other sources too; without EmberWorld's own records the suite asks those there are.
        return [r for r in found if r.source == SOURCE] or found, train, str(options.data)
    from embervlm.world.dataset import build

    count = 2 * (options.limit or MADE)  # half of them are in pairs
    made = list(build("test", "selection", count, options.seed, options.image_size))
    return made, None, f"EmberWorld made with seed {options.seed}"


def _measured(
    suite: str, asker: Asker, records: Sequence[Record], train: Sequence[Record] | None, source: str, options: Options
) -> SuiteResult:
    if not records:
        raise MetricError(f"{suite}: no test records in {source}")
    raw, compared = ask(asker, records, options)
    if options.baselines:
        compared.update(words_only(records, train))
    slices = slices_of(records)
    metrics = own_figures(raw, records, options.seed, slices)
    changes = _team_changes([answer["team"] for answer in raw], [r.tags.get("pair") for r in records])
    if changes:
        metrics["counterfactual_team_changes"] = Sample([None] * len(changes), options.seed).mean(changes)
    none, unsure = none_figures(asker, records, raw, options.seed) if suite == "world" else ({}, {})
    notes = () if train or not options.baselines else ("Without training records there is no words-only baseline.",)
    return SuiteResult(
        suite,
        f"{len(records)} test records of {source}",
        len(records),
        metrics | none,
        beside(compared, records, options.seed, slices) | unsure,
        notes,
        {"predictions": rows_of(records, raw)},
    )


def _team_changes(teams: Sequence[Sequence[str]], pairs: Sequence[object]) -> list[float]:
    """1 or 0 for every pair of twins: are the teams different?"""
    members: dict[object, list[frozenset[str]]] = {}
    for team, pair in zip(teams, pairs, strict=True):
        if pair is not None:
            members.setdefault(pair, []).append(frozenset(team))
    return [float(found[0] != found[1]) for found in members.values() if len(found) > 1]
