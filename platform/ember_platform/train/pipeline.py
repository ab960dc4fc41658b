"""Stages in order, each skipped where it is done: train → save → evaluate → register; at the end the model to serve.

A stage's model is in `final/` before anything measures or registers it, and what fails afterwards is told at the end
and made up for by the next run of the same command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ember_platform import figures, storage, studies
from ember_platform.config import RunConfig
from ember_platform.data.manifest import Manifest
from ember_platform.energy import metered
from ember_platform.train import folders
from ember_platform.train.plan import Start, check, first_model, wanted_stages
from ember_platform.train.stage_run import StageResult, run_stage

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a pipeline did. `problems` are failures after a model was saved; none is lost by them."""

    final: str
    stages: list[int]
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    answer: dict[str, Any] | None = None


def run_pipeline(
    config: RunConfig,
    stages: Sequence[int],
    *,
    resume_from: str | None = None,
    say: Say = print,
    observers: list[Callable[..., None]] | None = None,
    register: bool = True,
) -> Outcome:
    """Prepare the data, train the stages that are not done, evaluate and register each.

    Args:
        config: of the run.
        stages: numbers; stage 0 is added before stage 1 where the vision encoder is untrained.
        resume_from: a checkpoint of the first stage, or a model folder or an earlier stage's checkpoint to start from.
        say: takes lines of progress.
        observers: see `stage_run.run_stage`.
        register: register the models; False for runs whose models nobody will serve: they have no figures either.

    Raises:
        PlanError: something that can be known before any work starts is wrong.
        DataError, TrainingError: preparing or training failed.
    """
    from ember_platform.data.ingest import prepare
    from ember_platform.data.rayed import ensure_ray

    if not register:
        config = config.model_copy(update={"figures": config.figures.model_copy(update={"enabled": False})})
    numbers = wanted_stages(config, stages, resume_from)
    start = first_model(config, numbers, resume_from)
    ensure_ray(config)
    check(config, numbers)
    manifest = prepare(config, say=say)
    run = _Pipeline(config, manifest, say, observers, register)
    with run.tracker.ending(say):
        outcome = run.stages(numbers, start)
    say(run.tracker.finish("FAILED" if outcome.problems else "FINISHED"))
    return outcome


class _Pipeline:
    """One run's actor, tracker and what it has found so far."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        say: Say,
        observers: list[Callable[..., None]] | None,
        registers: bool,
    ) -> None:
        import ray

        from ember_platform.tracking import Tracker
        from ember_platform.train.models import ModelDesk

        self.config, self.manifest, self.say, self.observers = config, manifest, say, observers
        self.registers = registers
        self.data_dir = manifest.dir
        # What it does can be done again, so it outlives its node.
        options = {"num_cpus": 0.1, "num_gpus": 0.1 if config.cluster.use_gpu else 0}
        options |= {"max_restarts": -1, "max_task_retries": 3}
        self.desk: Any = ray.remote(ModelDesk).options(**options).remote(config, self.data_dir)
        self.tracker = Tracker(config)
        self.tracking_run = self.tracker.start_pipeline({"data_digest": manifest.digest})
        self.versions: dict[int, int] = {}
        self.outcome = Outcome(storage.join(config.output_dir, folders.FINAL), [])
        self.drawn_again = False

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the model desk, waited for."""
        import ray

        return ray.get(getattr(self.desk, method).remote(*arguments))

    def stages(self, numbers: list[int], start: Start) -> Outcome:
        """All of them, in order; each starts from the one before."""
        parent = start.parent or self.call("begin", storage.join(self.config.output_dir, "begin"))
        for number in numbers:
            data_dir = self.data_dir
            if number == 2 and self.config.teacher.model:
                from ember_platform.train.teach import teach

                data_dir = teach(self.config, self.manifest, parent, say=self.say)
            resume = start.resume if number == numbers[0] else None
            parent = self.stage(number, parent, data_dir, resume)
            self.outcome.stages.append(number)
        self.close(numbers[-1], parent)
        return self.outcome

    def stage(self, number: int, parent: str, data_dir: str, resume: str | None) -> str:
        """One stage, unless it is done; returns its model folder."""
        folder = folders.stage_dir(self.config.output_dir, number)
        final = storage.join(folder, folders.FINAL)
        parent_digest = content_digest(parent)
        data_digest = Manifest.load(data_dir).stage_digest(number)
        digest = digest_of(self.config.stage_digest(number), data_digest, parent_digest)
        done = folders.read_json(storage.join(folder, folders.DONE))
        if done is not None and done.get("digest") == digest and storage.exists(storage.join(final, "config.json")):
            self.say(f"stage {number}: done before, in {final}")
        else:
            self.say(f"stage {number}: starts from {parent}")
            with metered(self.config, folder, "training"):
                result = run_stage(
                    self.config,
                    number,
                    digest=digest,
                    parent=parent,
                    data_dir=data_dir,
                    resume=resume,
                    tracking_run=self.tracking_run,
                    observers=self.observers,
                )
            fitted = self.call("finish", number, result.best, final)
            done = self.finished(number, result, digest, data_digest, (parent, parent_digest)) | {"fitted": fitted}
            folders.write_json(storage.join(folder, folders.DONE), done)
            self.say(f"stage {number}: model saved in {final}")
            for name, value in fitted.items():
                self.say(f"stage {number}: fitted on validation records: {name} {value:.4f}")
        try:
            self.after(number, folder, done)
        except Exception as error:  # noqa: BLE001  the model is saved, and what is missing now is told at the end
            self.outcome.problems.append(f"stage {number}: trained and saved, but then {type(error).__name__}: {error}")
            self.say(self.outcome.problems[-1])
        return final

    def finished(
        self, number: int, result: StageResult, digest: str, data_digest: str, parent: tuple[str, str]
    ) -> dict[str, Any]:
        """The content of done.json, for a stage that is trained and saved and no more."""
        best = result.state.best
        return {
            "stage": number,
            "digest": digest,
            "config_digest": self.config.stage_digest(number),
            "data_digest": data_digest,
            "parent": parent[0],
            "parent_digest": parent[1],
            "phases": result.phases,
            "steps": result.state.total_step,
            "samples": result.state.samples,
            "best": {"phase": result.state.phase, "step": best.step, "validation": best.metrics},
            "startup_seconds": {name: round(value, 3) for name, value in result.startup.items()},
            "evaluated": False,
            "figures": False,
            "version": None,
        }

    def after(self, number: int, folder: str, done: dict[str, Any]) -> None:
        """Evaluate and register a saved stage, each unless it was done before."""
        path = storage.join(folder, folders.METRICS)
        final = storage.join(folder, folders.FINAL)
        metrics = folders.read_json(path) if done["evaluated"] else None
        if metrics is None:
            with metered(self.config, folder, "evaluation"):
                metrics = self.measured(number, final, done)
            folders.write_json(path, metrics)
            done["evaluated"] = True
            folders.write_json(storage.join(folder, folders.DONE), done)
        self.outcome.metrics[number] = metrics
        if done["version"] is None and number > 0 and self.registers:
            done["version"] = self.register(number, final, metrics, done)
            folders.write_json(storage.join(folder, folders.DONE), done)
        if done["version"] is not None:
            self.versions[number] = int(done["version"])
        if self.config.figures.enabled and number > 0 and not done.get("figures"):
            self.say(f"stage {number}: measuring and drawing its figures")
            with metered(self.config, folder, "figures"):
                self.call("measure_figures", number)
                self.call("draw", False)
            self.drawn_again = done["figures"] = True
            folders.write_json(storage.join(folder, folders.DONE), done)

    def measured(self, number: int, final: str, done: dict[str, Any]) -> dict[str, Any]:
        """The content of metrics.json: the test split's figures; of stage 0, which no test serves, validation's."""
        if number == 0:
            self.say("stage 0: probing the encoder before and after")
            before, after = self.call("probe", done["parent"]), self.call("probe", final)
            return {
                "stage": 0,
                "split": "validation",
                "samples": self.manifest.rows(0, "validation"),
                "metrics": done["best"]["validation"] | after,
                "baselines": {f"untrained_{name}": value for name, value in before.items()},
                "config_digest": done["config_digest"],
                "data_digest": done["data_digest"],
            }
        self.say(f"stage {number}: measuring on the test split")
        folder = folders.stage_dir(self.config.output_dir, number)
        content, table = self.call("evaluate", number, final, storage.join(folder, figures.TABLES))
        self.say(table)
        fitted = done.get("fitted")  # beside the test split's figures, and not one of them
        return {**content, "fitted": fitted} if fitted else dict(content)

    def register(self, number: int, final: str, metrics: dict[str, Any], done: dict[str, Any]) -> int:
        """Log the figures to the stage's run and register its model; the version."""
        from ember_platform.registry import register_stage, stage_name

        run_id = self.tracker.start_stage(number, done["phases"][-1])
        self.tracker.log_dataset(f"stage{number}", done["data_digest"], self.data_dir)
        self.tracker.log_measured(metrics, done["steps"])
        self.tracker.log_metrics({f"fitted_{k}": v for k, v in done.get("fitted", {}).items()}, step=done["steps"])
        before = number - 1
        lineage = {
            "parent": f"{stage_name(self.config, before)}/{self.versions[before]}"
            if before in self.versions
            else done["parent"],
            "parent_digest": done["parent_digest"],
            "data_digest": done["data_digest"],
            "config_digest": done["config_digest"],
        }
        try:
            with folders.fetched(final) as local:
                return register_stage(self.config, number, local, metrics, lineage, run_id)
        finally:
            self.tracker.end_stage()

    def close(self, last: int, model: str) -> None:
        """The model to serve: its folder, its version, the gate, one answer."""
        with folders.fetched(model) as local:
            folders.publish(local, self.outcome.final)
        try:
            if last in self.versions and last >= 3:
                self.serve_version(last)
            if last >= 3:
                self.outcome.answer = self.call("ask", self.outcome.final, last)
            studied = self.study()
            if self.drawn_again or studied:
                self.report()
        except Exception as error:  # noqa: BLE001  as above
            self.outcome.problems.append(f"after the last stage: {type(error).__name__}: {error}")
            self.say(self.outcome.problems[-1])

    def study(self) -> bool:
        """The short trainings that only figures need, where they are asked for and due; whether there was one."""
        due = studies.due(self.config) if self.registers else {}
        for name, steps in due.items():
            self.say(f"{name}: training for its figure, {steps} steps")
            studies.carry_out(self.config, name, steps, self.say)
        return bool(due)

    def report(self) -> None:
        """The figures across stages and the reports, and all figures to the trackers."""
        self.say("figures across stages and reports")
        self.call("measure_across")
        for line in self.call("draw", True):
            self.say(line)
        self.tracker.log_figures(figures.drawn(self.config))

    def serve_version(self, last: int) -> None:
        """Make the last stage's version the challenger, and through the gate the champion."""
        from ember_platform.registry import promote, register_final

        version = register_final(self.config, last, self.versions[last])
        found = promote(self.config, version, remeasure=lambda folder: self.remeasure(last, folder))
        for one in found.checks:
            self.say(f"gate: {'passed' if one.passed else 'not passed'}: {one.name}: {one.message}")
        alias = "champion" if found.promoted else "challenger"
        self.outcome.versions[f"{found.name}@{alias}"] = f"models:/{found.name}/{version}"

    def remeasure(self, stage: int, folder: Path) -> dict[str, Any]:
        """Today's test figures of an older model, for the gate."""
        content, _ = self.call("evaluate", stage, str(folder))
        return dict(content)


def digest_of(*parts: str) -> str:
    """sha256 (hex) of several digests."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def content_digest(folder: str) -> str:
    """sha256 (hex) over the names and contents of a model folder's files, wherever it is."""
    from ember_platform.registry import folder_digest

    with folders.fetched(folder) as local:
        return folder_digest(local)


def closing_lines(config: RunConfig, outcome: Outcome) -> list[str]:
    """What a finished pipeline prints: where everything is, the figures, one worked answer, what went wrong."""
    from ember_platform.mlflow_store import tracking_uri

    lines = ["", "done" if not outcome.problems else "trained, with problems", ""]
    lines += [f"  stage {n:<2} {storage.join(folders.stage_dir(config.output_dir, n), '')}" for n in outcome.stages]
    lines += [f"  model    {outcome.final}", f"  tracking {tracking_uri(config)}"]
    lines += [f"  registry {name} = {uri}" for name, uri in outcome.versions.items()]
    report = storage.join(config.output_dir, "report.html")
    lines += [f"  report   {report}"] if storage.exists(report) else []
    for number, metrics in sorted(outcome.metrics.items()):
        lines += ["", f"stage {number}, {metrics['split']} split, {metrics['samples']} records"]
        lines += [f"  {line}" for line in _table(metrics).splitlines()]
    if outcome.answer is not None:
        lines += ["", *_answer_lines(outcome.answer)]
    return [*lines, *(f"problem: {text}" for text in outcome.problems)]


def _table(metrics: dict[str, Any]) -> str:
    from embervlm.evaluation.report import format_table

    return format_table(metrics["metrics"], metrics["baselines"])


def _answer_lines(answer: dict[str, Any]) -> list[str]:
    lines = [f"task: {answer['task']}"]
    lines += [f"  {found['confidence']:.2f}  {found['robot']}" for found in answer["robots"]]
    if answer.get("team"):
        lines.append(f"  team: {', '.join(answer['team'])}")
    lines += [f"  {step['order']}. {step['subtask']}: {step['robot']}" for step in answer.get("plan") or []]
    if answer.get("reasoning"):
        lines.append(f"  reasoning: {answer['reasoning']}")
    if answer.get("right"):
        lines.append(f"  (right: {', '.join(answer['right'])})")
    return lines
