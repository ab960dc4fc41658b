"""What stage 2 gains from a teacher and what the teacher costs: with it, without it, and without it for longer.

    python cluster/local.py submit -- python benchmarks/distillation.py --config configs/laptop.yaml \
        --output_dir outputs/distillation --seeds 3

The teacher is an EmberVLM with a decoder four times as wide in parameters and otherwise the configuration's own model,
trained on the same world through stages 0, 1 and 2; or the folder that `--teacher` names. For each seed, which draws
stage 2's records and their order anew, three students start from one stage-1 model: `plain`, `taught`, and `longer`
(plain, with twice the epochs: what more time buys without a teacher). All are measured on that seed's test split.
Training seconds are sums over recorded steps, so an interrupted run that goes on reports the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

STAGE = 2
ARMS = ("plain", "taught", "longer")
METRIC = "answer_accuracy"
#: The teacher's decoder: that of the 37M preset, with the vocabulary of the student, whose tokenizer it shares.
TEACHER = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6}
TEACHER |= {"head_dim": 64, "intermediate_size": 1536}


def main() -> int:
    """Run the trial, print a table, write `distillation.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/laptop.yaml")
    parser.add_argument("--output_dir", default="outputs/distillation")
    parser.add_argument("--teacher", help="an EmberVLM folder; without it a teacher is trained")
    parser.add_argument("--student", help="the stage-1 model that students start from; without it one is trained")
    parser.add_argument("--teacher_epochs", type=int, help="epochs of the teacher's stage 2 (default: the student's)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    given = parser.parse_intermixed_args()
    from ember_platform.storage import absolute

    root = Path(absolute(given.output_dir))
    trial = Trial(given.config, given.overrides, root)
    if given.teacher:
        teacher, cost = absolute(given.teacher), None
    else:
        teacher, cost = trial.teacher(given.teacher_epochs)
    student = absolute(given.student) if given.student else trial.run("student", [1])[0]
    rows = [trial.seed(seed, teacher, student) for seed in range(given.seeds)]
    report(root, {"teacher": teacher, "teacher_training_seconds": cost, "seeds": rows})
    return 0


class Trial:
    """Pipelines of one configuration below one folder."""

    def __init__(self, path: str, overrides: list[str], root: Path) -> None:
        self.path, self.overrides, self.root = path, [*overrides, f"data.dir={root}/data"], root

    def config(self, *more: str) -> Any:
        """The configuration with overrides."""
        from ember_platform.config import load_config

        return load_config(self.path, [*self.overrides, *more])

    def run(self, name: str, stages: list[int], config: Any = None, **named: Any) -> tuple[str, float, dict[str, Any]]:
        """Train stages in a folder of their own: the last one's model, seconds of training steps, its test figures."""
        from ember_platform.train.checkpoint import read_history
        from ember_platform.train.pipeline import run_pipeline

        folder = self.root / name
        config = (config or self.config()).model_copy(update={"output_dir": str(folder)})
        outcome = run_pipeline(config, stages, register=False, **named)
        if outcome.problems:
            raise SystemExit("\n".join(outcome.problems))
        histories = [read_history(folder / f"stage{n}" / "history.parquet") for n in outcome.stages]
        seconds = sum(float(row["seconds"]) for history in histories for row in history)
        return str(folder / f"stage{stages[-1]}" / "final"), seconds, outcome.metrics[stages[-1]]

    def teacher(self, epochs: int | None) -> tuple[str, float]:
        """A larger EmberVLM of the same world: its folder, and the seconds of its training steps."""
        from ember_platform.train.setup import model_config

        text = model_config(self.config()).text_config
        wide = {"model_type": text.model_type, "vocab_size": text.vocab_size, **TEACHER}
        wide |= {"max_position_embeddings": text.max_position_embeddings, "tie_word_embeddings": True}
        more = [f"model.text_config={json.dumps(wide)}"]
        more += [f"stages.{STAGE}.epochs={epochs}"] if epochs else []
        folder, seconds, found = self.run("teacher", [1, STAGE], self.config(*more))
        print(f"teacher: {METRIC} {found['metrics'][METRIC]:.3f} after {seconds:.0f} s of training", flush=True)
        return folder, seconds

    def seed_config(self, seed: int, **stage: Any) -> Any:
        """Stage 2 alone, with records and order of this seed."""
        from ember_platform.config import RunConfig

        values = self.config(f"seed={seed}", f"data.dir={self.root}/seed{seed}/data").model_dump(mode="json")
        values["data"]["counts"] = {f"stage{STAGE}": values["data"]["counts"][f"stage{STAGE}"]}
        values["stages"] = {str(STAGE): values["stages"][str(STAGE)] | stage}
        return RunConfig.model_validate(values)

    def seed(self, seed: int, teacher: str, student: str) -> dict[str, Any]:
        """The three students of a seed, and the seconds that the teacher's reading took."""
        from ember_platform.data.ingest import prepare
        from ember_platform.train.teach import teach

        plain = self.seed_config(seed)
        taught = plain.model_copy(update={"teacher": plain.teacher.model_copy(update={"model": teacher})})
        longer = self.seed_config(seed, epochs=2 * plain.stage(STAGE).epochs)
        manifest = prepare(plain)
        started = time.perf_counter()
        teach(taught, manifest, student)
        row: dict[str, Any] = {"seed": seed, "teaching_seconds": time.perf_counter() - started}
        for arm, config in (("plain", plain), ("taught", taught), ("longer", longer)):
            _, seconds, found = self.run(f"seed{seed}/{arm}", [STAGE], config, resume_from=student)
            row[arm] = {"seconds": seconds, "samples": found["samples"], **found["metrics"]}
            print(f"seed {seed}, {arm}: {METRIC} {row[arm][METRIC]:.3f} after {seconds:.0f} s", flush=True)
        return row


def report(root: Path, content: dict[str, Any]) -> None:
    """The table, and `distillation.json`."""
    rows = content["seeds"]
    print(f"\n{'student':<8} {METRIC:>16} {'min–max':>14} {'training s':>11}")
    for arm in ARMS:
        values = [row[arm][METRIC] for row in rows]
        seconds = statistics.fmean(row[arm]["seconds"] for row in rows)
        spread = f"{min(values):.3f}–{max(values):.3f}"
        print(f"{arm:<8} {statistics.fmean(values):>16.3f} {spread:>14} {seconds:>11.0f}")
    gains = [row["taught"][METRIC] - row["plain"][METRIC] for row in rows]
    reading = statistics.fmean(row["teaching_seconds"] for row in rows)
    print(f"gain of the teacher, seed by seed: {', '.join(f'{gain:+.3f}' for gain in gains)}")
    trained = content["teacher_training_seconds"]
    made = "not trained here" if trained is None else f"{trained:.0f} s of training steps"
    print(f"its cost: {made}, {reading:.0f} s of reading a run")
    (root / "distillation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"→ {root / 'distillation.json'}")


if __name__ == "__main__":
    sys.exit(main())
