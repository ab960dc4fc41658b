"""Text sides compared: stage 3 on words alone, for a few hundred steps, from scratch and from pretrained words.

    python benchmarks/text_sides.py --sides ours,minilm --steps 300 --tasks 8 --robot_data robot-selection-dataset

All sides have the same records, batches, steps and loss (stage 3's selection loss; no picture, no chain). Judged are
first choices in the labelled set, on the test split, whose words training never sees, and on the public robot-selection
files, none of which is trained on. Step 0 of MiniLM is its plain cosine. Seconds are of the processor's time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from embervlm import EmberVLM, EmberVLMConfig, EmberVLMProcessor
from embervlm.data.readers.base import Dataset, Found, LocalFiles
from embervlm.data.readers.robot_selection import parts, read
from embervlm.data.schema import Record
from embervlm.evaluation.baselines import labels_of
from embervlm.models.config import PRESETS
from embervlm.stages import get_stage
from embervlm.stages.selection import score_records

STAGE = 3
_TEXT = ("language", "text_config", "language_vocabulary", "similarity")
_MINILM = {key: PRESETS["embervlm-37m-minilm"].get(key) for key in _TEXT}
#: What each side changes in the preset, and the learning rates of its text side and of the heads.
SIDES: dict[str, tuple[dict[str, Any], float, float]] = {
    "ours": ({}, 5e-4, 5e-4),
    "ours-pairs": ({"pair_reading": True}, 5e-4, 5e-4),
    "minilm": (_MINILM, 1e-4, 5e-4),
    "minilm-pairs": ({**_MINILM, "pair_reading": True}, 1e-4, 5e-4),
    "minilm-no-cosine": ({**_MINILM, "similarity": 0.0}, 1e-4, 5e-4),
}
#: A small encoder: there are no pictures here.
_NO_EYES = {"vision_name": "repvit_m0_9", "vision_args": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}}


def main() -> int:
    """Train and judge every side; print a table and one line of JSON."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--sides", default="ours,minilm", help=f"of {', '.join(SIDES)}")
    flags.add_argument("--preset", default="embervlm-37m", help="the sizes of the side from scratch")
    flags.add_argument("--steps", type=int, default=300)
    flags.add_argument("--seconds", type=float, default=1e9, help="a side stops after so many seconds of the processor")
    flags.add_argument("--tasks", type=int, default=8, help="records of a step")
    flags.add_argument("--robots", type=int, default=8, help="fleets larger than this are not trained on")
    flags.add_argument("--judged", type=int, default=200, help="records of the test split")
    flags.add_argument("--every", type=int, default=100, help="steps between two judgements")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--robot_data", help="the public robot-selection files: a JSON file or a folder; only judged on")
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    train = list(records("train", given.steps * given.tasks, given.seed, given.robots))
    tests = {"test words": list(records("test", given.judged, given.seed, 64))}
    if given.robot_data:
        tests["public"] = public(given.robot_data)
    for name, rows in tests.items():
        print(f"{name}: {len(rows)} records, chance {chance(rows):.1%}, always the same robot {same(rows)}", flush=True)
    found = {side: trial(side, given, train, tests) for side in given.sides.split(",")}
    print(json.dumps({"records": len(train), "arguments": vars(given), "sides": found}))
    return 0


def records(split: str, count: int, seed: int, robots: int) -> Iterator[Record]:
    """Worded tasks that some robot of a fleet of at most `robots` can do and some cannot."""
    build = importlib.import_module("embervlm.world.lexicon.dataset").build
    start = 0
    while count > 0:
        for record in build(split, 64, seed, start):
            if count > 0 and len(record.robots) <= robots and 0 < len(record.labels) < len(record.robots):
                count -= 1
                yield record
        start += 64


def public(folder: str) -> list[Record]:
    """The public files' records."""
    dataset, files = Dataset("robot_selection", "robot_selection", folder, split="test"), LocalFiles()
    return [
        row.record for part in parts(dataset, files) for row in read(dataset, part, files) if isinstance(row, Found)
    ]


def chance(rows: Sequence[Record]) -> float:
    """The share of robots that can do their task."""
    return float(np.mean([labels_of(r).mean() for r in rows]))


def same(rows: Sequence[Record]) -> str:
    """How often the robot that is right most often is right, where all fleets are one."""
    names = {str(robot["name"]) for record in rows for robot in record.robots}
    if any(len(record.robots) != len(names) for record in rows):
        return "has no meaning here"
    return f"{max(np.mean([name in record.labels for record in rows]) for name in names):.1%}"


def trial(side: str, given: argparse.Namespace, train: Sequence[Record], tests: dict[str, list[Record]]) -> list[Any]:
    """Train a side; what was found before the first step and then every so many."""
    changes, text_rate, head_rate = SIDES[side]
    config = EmberVLMConfig.preset(given.preset, **{**_NO_EYES, **changes})
    started = time.process_time()
    texts = None if config.language else (t for r in train for t in _texts(r))
    processor = EmberVLMProcessor.build(config, texts)
    torch.manual_seed(given.seed)
    model = EmberVLM.from_parts(config, len(processor.tokenizer))
    stage = get_stage(STAGE)
    stage.chain_share = stage.task_dropout = 0.0  # type: ignore[attr-defined]
    stage.prepare(model, stage.phases[0])
    module = stage.module(model)
    language = {id(p) for p in model.language.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in language], "rate": text_rate},
        {"params": [p for p in trained if id(p) not in language], "rate": head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.01)
    print(
        f"{side}: {sum(p.numel() for p in trained) / 1e6:.1f}M trained, ready in {time.process_time() - started:.0f} s"
    )
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    spent = 0.0
    for step in range(given.steps + 1):
        last = step == given.steps or spent > given.seconds
        if step % given.every == 0 or last:
            rows.append({"step": step, "seconds": round(spent), "loss": float(np.mean(losses or [np.nan]))})
            rows[-1] |= judged(model, processor, tests)
            print(f"{side}: {rows[-1]}", flush=True)
            losses = []
        if last:
            break
        before = time.process_time()
        module.train()
        rate = min(1.0, (step + 1) / (0.1 * given.steps)) * (1 - 0.9 * step / given.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        batch = stage.collate(processor, train[step * given.tasks : (step + 1) * given.tasks], given.seed)
        loss = module(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        spent += time.process_time() - before
    return rows


def _texts(record: Record) -> Iterator[str]:
    yield record.instruction
    for robot in record.robots:
        yield robot["name"]
        yield from (text for key in ("capabilities", "limitations", "environments") for text in robot.get(key) or ())


def judged(model: EmberVLM, processor: EmberVLMProcessor, tests: dict[str, list[Record]]) -> dict[str, float]:
    """First choices in the labelled set."""
    found = {}
    for name, rows in tests.items():
        scores, labels = score_records(model, processor, rows, 16)
        found[name] = float(np.mean([y[s.argmax()] > 0 for s, y in zip(scores, labels, strict=True)]))
    return found


if __name__ == "__main__":
    sys.exit(main())
