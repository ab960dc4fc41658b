"""A sweep as data: which fields of the configuration vary over what, how they are searched, and for how long.

    stage: 3
    config: configs/laptop.yaml
    objectives: [{metric: first_choice, mode: max}]
    trials: 16
    space:
      stages.3.learning_rate: {log_uniform: [3.0e-4, 1.0e-2]}
      stages.3.optimizer: {choice: [adamw, muon]}
      stages.3.weight_decay: {uniform: [0.0, 0.2], when: {stages.3.optimizer: [adamw]}}

Every parameter is a dotted field of the run configuration (an element of a list by its number); the base
configuration's value is its default, and the defaults together are the first trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ember_platform.config import ConfigError, RunConfig, load_config
from ember_platform.config_data import Section
from ember_platform.config_yaml import Origins, apply_overrides, explain, read

Params = dict[str, Any]

#: Fields of the swept stage that the sweep itself sets, with what to use instead.
_OWN = {
    "epochs": "the sweep's budget: set epochs at the top of the file",
    "phase_epochs": "the sweep's budget: set epochs at the top of the file",
    "max_steps": "the sweep's budget: set epochs at the top of the file",
    "eval_every": "trials are compared after each epoch",
    "best": "trials are compared by the first objective, and keep the model that is best by it",
    "restarts": "set scheduler.restarts, which puts them where trials are compared",
    "eval_samples": "trials must be measured on the same records",
    "save_every": "it changes no result",
    "log_every": "it changes no result",
    "keep": "it changes no result",
}


class Suggester(Protocol):
    """What a space asks of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Parameter(Section):
    """What one field varies over: exactly one kind of range."""

    uniform: tuple[float, float] | None = Field(default=None, description="[low, high], evenly")
    log_uniform: tuple[float, float] | None = Field(default=None, description="[low, high] above 0, evenly in log")
    integer: tuple[int, int] | None = Field(default=None, description="[low, high], whole numbers, both included")
    log_integer: tuple[int, int] | None = Field(default=None, description="[low, high] from 1, evenly in log")
    choice: list[Any] | None = Field(default=None, description="a list of at least two values")
    default: Any = Field(default=None, description="value of the first trial; not given: the base configuration's")
    when: dict[str, list[Any]] = Field(
        default={}, description="parameter named before → the values under which this one is varied at all"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) if kinds else "none"
            raise _fault(f"exactly one of {', '.join(_KINDS)} is needed, and there is {found}")
        if self.choice is not None:
            if len({_code(value) for value in self.choice}) < max(2, len(self.choice)):
                raise _fault("choice needs at least two values, all different")
            return self
        low, high = self.bounds
        if low >= high:
            raise _fault(f"{self.kind}: the low end {low} is not below the high end {high}")
        if self.kind.startswith("log") and low <= 0:
            raise _fault(f"{self.kind}: the low end must be above 0, and {low} is not")
        return self

    @property
    def kind(self) -> str:
        """The name of its range."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high end; not of a choice."""
        low, high = getattr(self, self.kind)
        return low, high

    def holds(self, value: Any) -> bool:
        """Whether a value is in the range."""
        if self.choice is not None:
            return _code(value) in {_code(v) for v in self.choice}
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = not self.kind.endswith("integer") or float(value).is_integer()
        return whole and self.bounds[0] <= value <= self.bounds[1]

    def ends(self) -> list[Any]:
        """The values that show whether the field takes this range: both ends, or every choice."""
        return list(self.choice) if self.choice is not None else list(self.bounds)

    def suggest(self, trial: Suggester, name: str) -> Any:
        """A value of an Optuna trial's choosing."""
        if self.choice is not None:
            return json.loads(trial.suggest_categorical(name, [_code(value) for value in self.choice]))
        low, high = self.bounds
        log = self.kind.startswith("log")
        if self.kind.endswith("integer"):
            return trial.suggest_int(name, int(low), int(high), log=log)
        return trial.suggest_float(name, low, high, log=log)

    def encode(self, value: Any) -> Any:
        """A value as Optuna stores it."""
        return _code(value) if self.choice is not None else value


_KINDS = ("uniform", "log_uniform", "integer", "log_integer", "choice")


class Objective(Section):
    """A metric that the sweep wants better."""

    metric: str = Field(
        min_length=1, description="a validation metric, one of `jobs/evaluate.py`, latency_ms or parameters"
    )
    mode: Literal["max", "min"] = Field(description="max or min")

    def sign(self) -> float:
        """1 where more is better, else -1."""
        return 1.0 if self.mode == "max" else -1.0


class SearchConfig(Section):
    """How the next trial is chosen."""

    method: Literal["tpe", "random"] = Field(default="tpe", description="tpe or random")
    seed: int = Field(default=0, ge=0, lt=2**31, description="a whole number from 0")
    startup: int = Field(default=6, ge=1, description="trials chosen at random before TPE has something to go by")


class SchedulerConfig(Section):
    """Which trials go on."""

    method: Literal["asha", "none"] = Field(default="asha", description="asha or none (every trial trains to the end)")
    grace: int = Field(default=1, ge=1, description="epochs that every trial gets, at least 1")
    reduction: float = Field(default=2.0, gt=1, description="of so many trials at a rung one goes on, above 1")
    restarts: bool = Field(
        default=False, description="true: the learning rate falls to its end at every rung and begins anew after it"
    )


class SweepConfig(Section):
    """A search space and its budget: the content of `tune/stage3.yaml`."""

    stage: Literal[3, 4] = Field(description="the stage that is swept: 3 or 4")
    config: str = Field(default="configs/laptop.yaml", min_length=1, description="YAML file of the base configuration")
    objectives: list[Objective] = Field(
        min_length=1, description="what is to be better; the first decides which trials go on, and the winner"
    )
    trials: int = Field(default=16, ge=1, description="trials, the first with the defaults")
    epochs: int | None = Field(default=None, ge=1, description="epochs of a full training, or null: the base's")
    concurrent: int | Literal["auto"] = Field(
        default="auto", description="trials at once at most, at least 1, or auto (as many as the cluster has room for)"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="training workers of a trial, or null: the configuration's; one trains in a process that stays",
    )
    search: SearchConfig = Field(default=SearchConfig(), description="method, seed, startup")
    scheduler: SchedulerConfig = Field(default=SchedulerConfig(), description="method, grace, reduction")
    space: dict[str, Parameter] = Field(min_length=1, description="dotted field → its range")

    @model_validator(mode="after")
    def _across(self) -> SweepConfig:
        if self.concurrent != "auto" and self.concurrent < 1:
            raise _fault("at least one trial must run", "concurrent")
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise _fault(f"a metric is named twice: {', '.join(names)}", "objectives")
        before: dict[str, Parameter] = {}
        for name, parameter in self.space.items():
            for other, values in parameter.when.items():
                if other not in before:
                    raise _fault(f"{other!r} is no parameter above this one", f"space.{name}.when")
                wrong = [value for value in values if not before[other].holds(value)]
                if wrong or not values:
                    raise _fault(f"{other} never is {wrong[0] if wrong else 'anything of []'!r}", f"space.{name}.when")
            before[name] = parameter
        return self

    def sample(self, trial: Suggester) -> Params:
        """Values for the parameters that apply, in the file's order."""
        chosen: Params = {}
        for name, parameter in self.space.items():
            if applies(parameter, chosen):
                chosen[name] = parameter.suggest(trial, name)
        return chosen

    def defaults(self, base: RunConfig) -> Params:
        """The first trial's values."""
        values = base.model_dump(mode="json")
        chosen: Params = {}
        for name, parameter in self.space.items():
            if applies(parameter, chosen):
                given = "default" in parameter.model_fields_set
                chosen[name] = parameter.default if given else look_up(values, name)
        return chosen


def applies(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    """Whether a parameter is varied beside these values of the ones above it."""
    return all(
        other in chosen and _code(chosen[other]) in {_code(value) for value in values}
        for other, values in parameter.when.items()
    )


def look_up(values: Any, name: str) -> Any:
    """The value at a dotted name in nested mappings and lists, or None where there is none."""
    for part in name.split("."):
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values


def overrides(params: Mapping[str, Any], base: RunConfig) -> list[str]:
    """Parameters as dotted overrides; elements of one list become one override of the whole list."""
    values = base.model_dump(mode="json")
    lists: dict[str, list[Any]] = {}
    found: dict[str, Any] = {}
    for name, value in params.items():
        parent, _, last = name.rpartition(".")
        whole = look_up(values, parent)
        if isinstance(whole, list) and last.isdigit() and int(last) < len(whole):
            lists.setdefault(parent, list(whole))[int(last)] = value
        else:
            found[name] = value
    return [f"{name}={json.dumps(value)}" for name, value in {**found, **lists}.items()]


def apply(base: RunConfig, settings: Sequence[str]) -> RunConfig:
    """A configuration with dotted overrides on top.

    Raises:
        ConfigError: a field that cannot be so.
    """
    data = base.model_dump(mode="json")
    origins: Origins = {}
    apply_overrides(data, settings, origins)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, RunConfig, origins, "the base configuration") from error


def load_sweep(
    path: str | Path, changes: Sequence[str] = (), config_changes: Sequence[str] = (), config: str | None = None
) -> tuple[SweepConfig, RunConfig]:
    """Read a search space and the configuration that it varies, and check them against each other.

    Args:
        path: of the YAML file.
        changes: overrides of the sweep's own fields, such as `trials=8`.
        config_changes: overrides of the base configuration.
        config: base configuration in place of the file's.

    Raises:
        ConfigError: one line per fault, with file and line, and what is allowed.
    """
    data, origins = read(path)
    apply_overrides(data, [*changes, *([f"config={json.dumps(config)}"] if config else [])], origins)
    try:
        sweep = SweepConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, SweepConfig, origins, str(path)) from error
    base = load_config(sweep.config, config_changes)
    base = apply(base, budget(sweep, base))
    _check_modes(sweep, origins, str(path))
    if sweep.scheduler.method == "asha" and sweep.scheduler.grace > base.stage(sweep.stage).epochs:
        where = origins.get("scheduler.grace", str(path))
        raise ConfigError(
            f"{where}: scheduler.grace: {sweep.scheduler.grace} epochs for every trial, and a full training has "
            f"{base.stage(sweep.stage).epochs}; set epochs higher or grace lower"
        )
    faults = [fault for name in sweep.space if (fault := _check(sweep, base, name))]
    if faults:
        lines = [f"{origins.get(f'space.{name}', str(path))}: space.{name}: {text}" for name, text in faults]
        raise ConfigError("\n".join(lines))
    return sweep, base


def budget(sweep: SweepConfig, base: RunConfig) -> list[str]:
    """The overrides that give every trial the sweep's epochs, a validation and a checkpoint after each of them.

    And that make it keep the model which is best by the first objective.
    """
    from embervlm.stages import get_stage

    at = f"stages.{sweep.stage}"
    settings = [f"{at}.eval_every=null", f"{at}.save_every=null", f"{at}.keep=1"]
    if sweep.epochs is not None and sweep.epochs != base.stage(sweep.stage).epochs:
        settings += [f"{at}.epochs={sweep.epochs}", f"{at}.phase_epochs=null"]
    if sweep.scheduler.restarts:
        from ember_platform.tuning.rungs import milestones

        settings.append(f"{at}.restarts={milestones(sweep.scheduler, sweep.epochs or base.stage(sweep.stage).epochs)}")
    stage = get_stage(sweep.stage)
    first = sweep.objectives[0].metric
    # What no validation tells cannot choose between a trial's models: the base configuration's metric does.
    if first in stage.judged:
        settings.append(f"{at}.best={first if first != stage.metric else 'null'}")
    return settings


def _check_modes(sweep: SweepConfig, origins: Origins, path: str) -> None:
    """Which way a metric of validation is better is known.

    Raises:
        ConfigError: an objective wants one worse.
    """
    from embervlm.stages import get_stage

    judged = get_stage(sweep.stage).judged
    for number, objective in enumerate(sweep.objectives):
        if judged.get(objective.metric, objective.mode) != objective.mode:
            where = next((origins[key] for key in (f"objectives.{number}.mode", "objectives") if key in origins), path)
            raise ConfigError(
                f"{where}: objectives.{number}.mode: {objective.metric} is better when it is "
                f"{'more' if objective.mode == 'min' else 'less'}; write mode: {judged[objective.metric]}"
            )


def _check(sweep: SweepConfig, base: RunConfig, name: str) -> tuple[str, str] | None:
    """What is wrong with a parameter, given the configuration that it belongs to."""
    parameter, at = sweep.space[name], f"stages.{sweep.stage}."
    if name.startswith(at):
        instead = _OWN.get(name.removeprefix(at).split(".")[0])
        if instead:
            return name, f"cannot be swept: {instead}"
    elif name != "preset" and not name.startswith("model."):
        return name, (
            f"cannot be swept: trials share data, cluster and store, so that they can be compared; {at}*, model.* and "
            "preset can"
        )
    given = "default" in parameter.model_fields_set
    default = parameter.default if given else look_up(base.model_dump(mode="json"), name)
    if not parameter.holds(default):
        whose = "its default" if given else "the base configuration's value, its default,"
        return name, f"{whose} is {default!r}, which is not in {parameter.kind} {getattr(parameter, parameter.kind)}"
    for value in parameter.ends():
        try:
            apply(base, overrides({name: value}, base))
        except ConfigError as error:
            return name, f"{value!r} cannot be used: {str(error).splitlines()[0]}"
    return None


def _code(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _fault(message: str, key: str = "") -> PydanticCustomError:
    return PydanticCustomError("config", "{message}", {"key": key, "message": message})
