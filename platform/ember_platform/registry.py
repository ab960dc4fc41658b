"""Every stage's model in the MLflow registry, and the gate before the champion.

`embervlm-stage1` … `embervlm-stage4` hold the stages' models with their lineage; `embervlm` holds what is served: a new
version is `challenger`, the one that passed the gate is `champion`. Versions carry their test figures, so that a
comparison needs no run of the past; figures from other test data are never compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_platform import pyfunc_spec, storage
from ember_platform.config import RunConfig
from ember_platform.gate import Check, passes_gate
from ember_platform.mlflow_store import code_revision, experiment_id, mlflow_module, open_store, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"


class RegistryError(RuntimeError):
    """A registration or promotion that cannot be done. The message names the model and what to do."""


@dataclass(frozen=True)
class Promotion:
    """What the gate said of a version, and whether it is the champion now."""

    name: str
    version: int
    promoted: bool
    checks: list[Check]


def stage_name(config: RunConfig, stage: int) -> str:
    """The registered name of a stage's models."""
    return f"{config.registry.prefix}-stage{stage}"


# ---------------------------------------------------------------- registering


def register_stage(
    config: RunConfig,
    stage: int,
    model_dir: str | Path,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, str],
    run_id: str | None = None,
) -> int:
    """Register a stage's model folder; the same model with the same lineage and figures is registered once.

    Args:
        stage: 1 to 4.
        model_dir: the `from_pretrained` folder, processor included.
        metrics: the content of the stage's `metrics.json` ("metrics", "split", "data_digest", …), or bare figures.
        lineage: tags, such as `parent` ("embervlm-stage2/3"), `data_digest`, `config_digest`; `code_revision` is
            added where it is missing.
        run_id: the stage's tracking run; a new run is made where none is given.

    Returns:
        The version.

    Raises:
        RegistryError: the folder is not a saved model.
    """
    folder = Path(model_dir)
    if not (folder / "config.json").is_file():
        raise RegistryError(f"stage {stage}: {folder} is not a saved model, it has no config.json")
    client = open_store(config)
    name = stage_name(config, stage)
    figures = dict(metrics) if "metrics" in metrics else {"metrics": dict(metrics)}
    tags = {
        "stage": str(stage),
        "code_revision": code_revision(),
        "config_digest": config.digest(),
        **{key: str(value) for key, value in lineage.items()},
        "model_digest": folder_digest(folder),
        "metrics": json.dumps({k: v for k, v in figures.items() if k != "tables"}, sort_keys=True),
    }
    for known in _versions(client, name):
        if all(known.tags.get(key) == value for key, value in tags.items() if key != "code_revision"):
            return int(known.version)
    _ensure_name(client, name, f"EmberVLM after stage {stage}")
    if run_id is None:
        run = client.create_run(experiment_id(config, client), run_name=f"register stage {stage}")
        run_id = run.info.run_id
        client.set_terminated(run_id)
    return _register(client, name, stage, folder, tags, run_id)


def _register(client: MlflowClient, name: str, stage: int, folder: Path, tags: dict[str, str], run_id: str) -> int:
    """Save the pyfunc folder, log it as the run's model, and make a version of it.

    Done in single steps and not by `pyfunc.log_model`, which loads the model a second time to try the input example
    and needs a run that is active in this process.
    """
    mlflow = mlflow_module()
    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id, model_type="pyfunc")
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch, "model")
        mlflow.pyfunc.save_model(
            path=str(local),
            python_model=str(pyfunc_spec.CODE),
            code_paths=[str(pyfunc_spec.package_folder())],
            artifacts={"model": str(folder)},
            model_config={"stage": stage},
            signature=pyfunc_spec.signature(stage),
            input_example=pyfunc_spec.example(),
            pip_requirements=pyfunc_spec.requirements(),
            mlflow_model=mlflow.models.Model(artifact_path=name, run_id=run_id, model_id=logged.model_id),
        )
        client.log_model_artifacts(logged.model_id, str(local))
    client.finalize_logged_model(logged.model_id, "READY")
    version = client.create_model_version(
        name, logged.artifact_location, run_id=run_id, tags=tags, model_id=logged.model_id
    )
    return int(version.version)


def register_final(config: RunConfig, stage: int = 4, version: int | None = None) -> int:
    """Make a stage's version (the latest where None) a version of the served model, as its challenger.

    The files are not copied: both versions name the same ones. Returns the version of the served model.

    Raises:
        RegistryError: there is no such version.
    """
    client = open_store(config)
    source = _find(client, stage_name(config, stage), version)
    name = config.registry.prefix
    reference = f"{source.name}/{source.version}"
    known = next((v for v in _versions(client, name) if v.tags.get("registered_from") == reference), None)
    if known is None:
        _ensure_name(client, name, "EmberVLM as it is served: see the aliases champion and challenger")
        known = client.create_model_version(
            name,
            str(source.source),
            run_id=source.run_id,
            tags={**source.tags, "registered_from": reference},
            model_id=source.model_id,
        )
    if _alias(client, name, CHAMPION) != int(known.version):
        client.set_registered_model_alias(name, CHALLENGER, str(known.version))
    return int(known.version)


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over the names and contents of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest()


# ---------------------------------------------------------------- the gate


def promote(
    config: RunConfig,
    version: int | None = None,
    remeasure: Callable[[Path], dict[str, Any]] | None = None,
) -> Promotion:
    """Put a version of the served model (the challenger where None) through the gate.

    Args:
        remeasure: gives the content of a `metrics.json` for a model folder, on the present test split; called for the
            champion where its figures come from other test data. Without it such figures do not pass.

    Raises:
        RegistryError: there is no such version, or no challenger.
    """
    client, name = open_store(config), config.registry.prefix
    if version is None:
        version = _alias(client, name, CHALLENGER)
        if version is None:
            raise RegistryError(f"{name}: no version has the alias {CHALLENGER}; name one, or register one first")
    candidate = _find(client, name, version)
    holder = _alias(client, name, CHAMPION)
    if holder == version:
        return Promotion(name, version, True, [Check("champion", True, f"version {version} is the champion already")])
    ours = _figures(candidate)
    theirs = None
    if holder is not None:
        theirs = _figures(_find(client, name, holder))
        if not _comparable(ours, theirs) and remeasure is not None:
            theirs = remeasure(model_folder(config, f"models:/{name}/{holder}"))
    checks = passes_gate(ours["metrics"], theirs["metrics"] if theirs else None, config.registry.gate)
    if theirs is not None:
        same = _comparable(ours, theirs)
        words = "the same test records" if same else "different test records: evaluate the champion on the present ones"
        checks.insert(0, Check("same test split", same, f"challenger and champion were measured on {words}"))
    passed = all(check.passed for check in checks)
    if passed:
        _crown(client, name, version, holder)
    return Promotion(name, version, passed, checks)


def _comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return all(ours.get(key) == theirs.get(key) for key in ("stage", "split", "data_digest", "samples"))


def _crown(client: MlflowClient, name: str, version: int, replaced: int | None) -> None:
    """Note whom it replaces before the alias moves, so that there is always a way back."""
    if replaced is not None:
        client.set_model_version_tag(name, str(version), "replaced", str(replaced))
    client.set_registered_model_alias(name, CHAMPION, str(version))
    if _alias(client, name, CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def roll_back(config: RunConfig) -> int:
    """Make the version that the champion replaced the champion again, and return it.

    Raises:
        RegistryError: there is no champion, or it replaced none.
    """
    client, name = open_store(config), config.registry.prefix
    holder = _alias(client, name, CHAMPION)
    if holder is None:
        raise RegistryError(f"{name}: there is no {CHAMPION} to roll back")
    before = _find(client, name, holder).tags.get("replaced")
    if before is None:
        raise RegistryError(f"{name}: version {holder} is the first champion; there is nothing to go back to")
    client.set_registered_model_alias(name, CHAMPION, before)
    return int(before)


# ---------------------------------------------------------------- looking up


def load(config: RunConfig, uri: str | None = None) -> Any:
    """The pyfunc model of a URI (`models:/embervlm@champion` where None)."""
    open_store(config)
    return mlflow_module().pyfunc.load_model(uri or f"models:/{config.registry.prefix}@{CHAMPION}")


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `alias` is the one it was asked for by, if any."""

    name: str
    version: int
    alias: str | None
    source: str
    tags: dict[str, str]


def resolve(config: RunConfig, uri: str, client: MlflowClient | None = None) -> Registered:
    """What `models:/name@alias`, `models:/name/version` or `models:/name` (the latest) means at this moment.

    Args:
        client: of the store, where it was opened before.

    Raises:
        RegistryError: there is no such version or alias.
    """
    client = client or open_store(config)
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if alias:
        version = _alias(client, name, alias)
        if version is None:
            raise RegistryError(f"{uri}: {name} has no alias {alias!r} in {tracking_uri(config)}")
    else:
        name, _, number = name.partition("/")
        version = int(number) if number.isdigit() else None
    found = _find(client, name, version)
    return Registered(name, int(found.version), alias or None, str(found.source), dict(found.tags))


def model_folder(config: RunConfig, uri: str) -> Path:
    """The `from_pretrained` folder of a registered model; other texts are taken as folders.

    Raises:
        RegistryError: no such registered model, or no such folder.
    """
    if not uri.startswith("models:/"):
        folder = Path(storage.absolute(uri))
        if not (folder / "config.json").is_file():
            raise RegistryError(f"{uri}: not a saved model, it has no config.json; give a folder or models:/name@alias")
        return folder
    return registered_folder(config, resolve(config, uri))


def registered_folder(config: RunConfig, found: Registered) -> Path:
    """The `from_pretrained` folder of a version, fetched where it is not on this machine."""
    mlflow = mlflow_module()
    local = mlflow.artifacts.download_artifacts(artifact_uri=found.source, tracking_uri=tracking_uri(config))
    artifacts = mlflow.models.Model.load(local).flavors["python_function"]["artifacts"]
    return Path(local, artifacts["model"]["path"])


def _ensure_name(client: MlflowClient, name: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a name, the latest first; none where the name is unknown."""
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: -int(v.version))


def _find(client: MlflowClient, name: str, version: int | None) -> ModelVersion:
    versions = _versions(client, name)
    for found in versions:
        if version is None or int(found.version) == version:
            return found
    have = ", ".join(str(v.version) for v in reversed(versions)) or "none"
    raise RegistryError(f"{name}: no version {'at all' if version is None else version}; there are: {have}")


def _alias(client: MlflowClient, name: str, alias: str) -> int | None:
    """The version that an alias names, as a number whatever the server returns; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _figures(version: ModelVersion) -> dict[str, Any]:
    """The test figures that a version carries."""
    content = json.loads(version.tags.get("metrics", "{}"))
    return content if "metrics" in content else {"metrics": {}}
