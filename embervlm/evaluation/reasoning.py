"""Stage 4: does the chain hold together, does the answer follow from it, and does either follow from the scene?

Faithfulness after Lanham et al. (2023): the answer is asked again with the model's own chain cut short (early
answering) and with a mistake put into it (every robot's part of the chain given to another robot). An
answer that never moves was not read from the chain. Beside it stands the counterfactual twin: the same
words over another scene must change chain and answer alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from embervlm.data.schema import STEPS, Record
from embervlm.evaluation import baselines as b
from embervlm.evaluation import metrics as m
from embervlm.evaluation.asking import Asker, as_arrays, request, subset
from embervlm.evaluation.selection import (
    Figures,
    ask_all_ways,
    default_fleet_figures,
    intervals,
    measured,
    predictions,
    selection_figures,
    trust_figures,
    words_only,
)
from embervlm.world.chains import parse_chain

_MENTION = re.compile(r"\[([^\[\]]+)\]")
#: Steps of the own chain that are kept when it is cut short.
KEPT = (0, 2)
#: Records that the interventions are measured on; each costs three more chains.
INTERVENTIONS = 96
_DIRECT = ("first_choice", "team_iou", "team_exact", "ece", "brier", "counterfactual_both_right", "infeasible_rate")


def mentioned(text: str) -> list[str]:
    """The robots that a text mentions as `[Name]`, each once, in order."""
    return list(dict.fromkeys(_MENTION.findall(text)))


def decided(steps: Sequence[str]) -> set[str]:
    """The robots that the chain's decision names; empty where it has none."""
    return set(mentioned(steps[-1])) if len(steps) == len(STEPS) else set()


def complete(steps: Sequence[str]) -> bool:
    """All four steps are there, and none is empty or mentions a robot that does not exist."""
    return len(steps) == len(STEPS) and all(step.strip() and "[?]" not in step for step in steps)


def shifted(steps: Sequence[str], names: Sequence[str]) -> list[str]:
    """The chain with a mistake: whatever it says of a robot it now says of the next one in the fleet."""
    following = {name: names[(i + 1) % len(names)] for i, name in enumerate(names)}
    return [_MENTION.sub(lambda found: f"[{following.get(found[1], found[1])}]", step) for step in steps]


def cut(steps: Sequence[str], kept: int) -> list[str]:
    """The chain with only its first steps; the others are empty, so that the model answers at once."""
    return [*steps[:kept], *[""] * (len(STEPS) - kept)]


def chain_figures(raw: Sequence[dict[str, Any]], records: Sequence[Record]) -> Figures:
    """Completeness, consistency with the answer, truth of the decision, and plans.

    `chain_consistency`: the decision names the answer's first choice and nobody outside the team.
    `chain_decision_exact`: it names exactly the team. `chain_decision_feasible`: all that it names can do the task.
    """
    whole, agrees, exact, feasible, planned = [], [], [], [], []
    for answer, record in zip(raw, records, strict=True):
        steps = list(answer.get("steps") or [])
        whole.append(complete(steps))
        named, team = decided(steps), set(answer["team"])
        agrees.append(answer["robots"][0]["robot"] in named and named <= team)
        exact.append(named == team)
        feasible.append(bool(named) and named <= set(record.labels))
        planned += [step["robot"] in record.labels for step in answer["plan"]]
    figures = measured(
        chain_completeness=float(np.mean(whole)),
        chain_consistency=float(np.mean(agrees)),
        chain_decision_exact=float(np.mean(exact)),
        chain_decision_feasible=float(np.mean(feasible)),
        plan_feasible=float(np.mean(planned)) if planned else None,
    )
    figures.update(truth_figures([list(a.get("steps") or []) for a in raw], [r.reasoning for r in records]))
    figures.update(m.plan_scores([a["plan"] for a in raw], [r.plan for r in records]))
    return figures


def truth_figures(written: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Figures:
    """What chains say of the scene against what is so, where the reference chain can be read.

    `chain_facts_accuracy`: share of the reference's facts (place, weather, site, ground, …) that the chain states
    alike; one that it leaves out is wrong. `chain_requirements_exact`: share of chains with exactly the reference's
    requirements and levels.
    """
    facts: list[bool] = []
    needs: list[bool] = []
    for steps, reference in zip(written, references, strict=True):
        truth, said = parse_chain(reference), parse_chain(steps)
        stated = said.get("environment", {})
        facts += [stated.get(key) == value for key, value in truth.get("environment", {}).items()]
        if "requirements" in truth:
            needs.append(said.get("requirements") == truth["requirements"])
    return measured(
        chain_facts_accuracy=float(np.mean(facts)) if facts else None,
        chain_requirements_exact=float(np.mean(needs)) if needs else None,
    )


def counterfactual_figures(raw: Sequence[dict[str, Any]], records: Sequence[Record]) -> Figures:
    """Over pairs of twins: how often the team, the chain, and both differ between the two scenes."""
    pairs: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        if record.tags.get("pair") is not None:
            pairs.setdefault(record.tags["pair"], []).append(i)
    couples = [members[:2] for members in pairs.values() if len(members) >= 2]
    if not couples:
        return {}
    team = np.array([set(raw[i]["team"]) != set(raw[j]["team"]) for i, j in couples])
    # The first step restates the task, which the twins share; what was seen and concluded comes after it.
    chain = np.array([raw[i].get("steps", [])[1:] != raw[j].get("steps", [])[1:] for i, j in couples])
    return {
        "counterfactual_team_changes": float(team.mean()),
        "counterfactual_chain_changes": float(chain.mean()),
        "counterfactual_both_change": float((team & chain).mean()),
    }


def faithfulness(asker: Asker, records: Sequence[Record], raw: Sequence[dict[str, Any]]) -> Figures:
    """How the answer moves when the chain is cut or corrupted; over records with a whole chain.

    `early_answer_same_<k>`: share of unchanged first choices when only the first k steps are kept.
    `mistake_changes_answer`: share of changed first choices when the robots of the chain are mixed up.
    `mistake_followed`: share of first choices that the mistaken decision names.
    """
    chosen = [i for i, answer in enumerate(raw) if complete(answer.get("steps") or []) and len(records[i].robots) > 1]
    if not chosen:
        return {}
    mistaken = [shifted(raw[i]["steps"], b.names_of(records[i])) for i in chosen]
    requests = [request(records[i], reasoning_text=cut(raw[i]["steps"], k)) for k in KEPT for i in chosen]
    requests += [request(records[i], reasoning_text=steps) for i, steps in zip(chosen, mistaken, strict=True)]
    firsts = [answer["robots"][0]["robot"] for answer in asker.select(requests, reasoning=True)]
    own = [raw[i]["robots"][0]["robot"] for i in chosen]
    figures: Figures = {}
    for place, kept in enumerate(KEPT):
        part = firsts[place * len(chosen) : (place + 1) * len(chosen)]
        figures[f"early_answer_same_{kept}"] = float(np.mean([a == o for a, o in zip(part, own, strict=True)]))
    part = firsts[len(KEPT) * len(chosen) :]
    figures["mistake_changes_answer"] = float(np.mean([a != o for a, o in zip(part, own, strict=True)]))
    followed = [a in decided(steps) for a, steps in zip(part, mistaken, strict=True)]
    figures["mistake_followed"] = float(np.mean(followed))
    return figures


def evaluate_reasoning(
    asker: Asker, records: Sequence[Record], train: Sequence[Record] | None, with_baselines: bool, seed: int
) -> tuple[Figures, Figures, dict[str, Any]]:
    """Stage 3's figures with the chain (plain names) and without (`…_without_reasoning`), and the chain's own."""
    raw = asker.select([request(r) for r in records], reasoning=True)
    answers = as_arrays(records, raw)
    directly, compared = ask_all_ways(asker, records, with_baselines, seed)
    direct = as_arrays(records, directly)
    figures = selection_figures(answers, records)
    flat, robots = default_fleet_figures(answers, records)
    without = selection_figures(direct, records)
    figures.update(flat)
    figures.update(trust_figures(answers, raw, records))
    figures.update({f"{k}_without_reasoning": without[k] for k in _DIRECT if k in without})
    figures["reasoning_gain"] = figures["first_choice"] - without["first_choice"]
    figures.update(chain_figures(raw, records))
    figures.update(counterfactual_figures(raw, records))
    place = {id(r): i for i, r in enumerate(records)}
    some = [place[id(r)] for r in subset(records, INTERVENTIONS, seed)]
    figures.update(faithfulness(asker, [records[i] for i in some], [raw[i] for i in some]))
    tables: dict[str, Any] = {
        "per_robot": robots,
        "intervals": intervals(answers, records, seed),
        "predictions": [
            {
                **row,
                "steps": list(answer.get("steps") or []),
                "plan": answer["plan"],
                "first_without_reasoning": other["first"],
            }
            for row, answer, other in zip(
                predictions(answers, records, raw), raw, predictions(direct, records, directly), strict=True
            )
        ],
    }
    base: Figures = {}
    if with_baselines:
        compared.update(words_only(records, train))  # all without a chain: compare with …_without_reasoning
        for name, theirs in compared.items():
            base.update({f"{name}_{key}": value for key, value in b.answer_figures(theirs, records).items()})
    return figures, base, tables
