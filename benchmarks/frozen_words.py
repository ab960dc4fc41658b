"""What readers of words on a frozen text side come to on tasks that nobody here worded, over several seeds.

    python benchmarks/frozen_words.py --robot_data robot-selection-dataset --seeds 3

Each seed is a training of its own (`jobs/train_words.py`), on records of its own. The public robot-selection files are
then answered twice: by the weights that validation found best, which never saw any of them, and in five folds by task,
by those weights after some steps on the other four folds. Beside these stand majority and TF-IDF + logistic regression
on the same folds, and on the test words the model untrained, which is the plain similarity of robot and task.
With `--model` nothing is trained before the folds, and the seeds are those of the folds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.text_sides import public
from ember_platform.config import load_config
from ember_platform.storage import absolute
from ember_platform.train.folders import FINAL
from ember_platform.train.setup import load_model
from ember_platform.train.words import NAME, WordsTrainer, by_fleet, train_words
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import Answers, answer_figures, fold_answers, majority, team_of, tfidf

_BATCH = 32
Figures = dict[str, list[float]]


def main() -> int:
    """Train and measure every seed; print means and ranges, write `told.json`."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--config", default="configs/words.yaml")
    flags.add_argument("--out", default="outputs/frozen_words", help="where the models and told.json are left")
    flags.add_argument("--robot_data", required=True, help="the public robot-selection files: a JSON file or a folder")
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--model", help="a words model that is there, to measure in folds alone")
    flags.add_argument("--fold_steps", type=int, default=120, help="steps on four folds, of 32 records each")
    flags.add_argument("--fold_rate", type=float, default=1e-3, help="their peak learning rate")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("overrides", nargs="*", metavar="field=value", help="fields of the configuration, dotted")
    given = flags.parse_intermixed_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Figures] = {}
    for seed in range(given.seeds):
        for name, figures in one(given, seed).items():
            for figure, value in figures.items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    for name, values in found.items():
        print(name, ", ".join(f"{f} {np.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for f, v in values.items()))
    Path(given.out).mkdir(parents=True, exist_ok=True)
    Path(given.out, "told.json").write_text(json.dumps({"arguments": vars(given), "found": found}, indent=1) + "\n")
    return 0


def one(given: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """A seed's figures by who answers what."""
    folder = absolute(str(Path(given.out, f"seed{seed}")))
    config = load_config(
        given.config, [f"seed={seed}", f"output_dir={folder}", f"data.dir={folder}/data", *given.overrides]
    )
    content = None if given.model else train_words(config)
    trainer = WordsTrainer(config, *load_model(given.model or f"{folder}/{NAME}/{FINAL}"))
    records = public(given.robot_data)
    trainer.read(records)
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def fine_tuned(known: Sequence[Record], asked: Sequence[Record]) -> Answers:
        trainer.model.load_state_dict(kept)
        for _ in trainer.steps(drawn(known, seed), given.fold_steps, given.fold_rate):
            pass
        return answers(trainer, asked)

    some = next(iter(by_fleet(records).values()))
    found = {"public": {"first_choice": trainer.right(some)}}
    if content is not None:
        found |= {"test words": content["metrics"], "test words, untrained": content["baselines"]}
    for name, learner in (("model", fine_tuned), ("tfidf", tfidf), ("majority", majority)):
        found[f"public in folds, {name}"] = answer_figures(fold_answers(records, learner, seed=seed), records)
    for name, figures in found.items():
        print(f"seed {seed}, {name}: {', '.join(f'{f} {v:.3f}' for f, v in figures.items())}", flush=True)
    return found


def drawn(records: Sequence[Record], seed: int) -> Iterator[list[Record]]:
    """Batches without end."""
    rng: Any = np.random.default_rng(seed)
    while True:
        yield [records[i] for i in rng.choice(len(records), min(_BATCH, len(records)), replace=False)]


def answers(trainer: WordsTrainer, records: Sequence[Record]) -> Answers:
    """Answers from scores; sent is who is more likely able than not."""
    own = [row.astype(np.float64) for row in trainer.scores(records)]
    sure = [1 / (1 + np.exp(-row)) for row in own]
    return Answers(sure, [team_of(row) for row in sure], own)


if __name__ == "__main__":
    sys.exit(main())
