"""The MLflow server that a run talks to, and the little of MLflow that tracking and registry share.

By default a SQLite file and an artifact folder under `output_dir`; MLflow is imported when first used.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_platform import storage
from ember_platform.config import RunConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient


class StoreError(RuntimeError):
    """A tracking store that cannot be used. The message names it and what to set."""


def tracking_uri(config: RunConfig) -> str:
    """The absolute tracking URI: `tracking.mlflow_uri`, or the SQLite file in `output_dir`.

    Raises:
        StoreError: neither is possible (SQLite needs a local folder).
    """
    if config.tracking.mlflow_uri:
        uri = config.tracking.mlflow_uri
        prefix, _, path = uri.partition("sqlite:///")
        # A relative path would be another file on every worker, whose working directory differs.
        return f"sqlite:///{storage.absolute(path)}" if prefix == "" and path else uri
    if not storage.is_local(config.output_dir):
        raise StoreError(
            f"output_dir: {config.output_dir} is not a local folder, and SQLite needs one; set tracking.mlflow_uri"
        )
    return f"sqlite:///{Path(storage.resolve(config.output_dir)[1], 'mlflow.db')}"


def with_store(config: RunConfig) -> RunConfig:
    """The configuration with the run's own store spelled out, for trainings in folders of their own that share it."""
    try:
        uri = tracking_uri(config)
    except StoreError:
        return config  # the tracker will say what is missing, and trains on
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"mlflow_uri": uri})})


def mlflow_module() -> Any:
    """MLflow, imported with its telemetry off and with a server that does not answer given up soon."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow  # slow to import: over a second

    return mlflow


def open_store(config: RunConfig) -> MlflowClient:
    """A client of the run's store, whose database exists afterwards.

    Several processes that touch a missing SQLite file at once corrupt it for good, so that its creation
    happens under a lock beside it.
    """
    mlflow = mlflow_module()
    client_class = mlflow.MlflowClient
    uri = tracking_uri(config)
    # Whatever in MLflow takes no client would else make a database of its own in the working directory.
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    prefix, _, path = uri.partition("sqlite:///")
    if prefix or not path:
        return client_class(tracking_uri=uri, registry_uri=uri)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = client_class(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # the first query is what creates the tables
    return client


def experiment_id(config: RunConfig, client: MlflowClient) -> str:
    """The id of the run's experiment, made where it is missing.

    Beside a SQLite file the artifacts lie in `mlartifacts`, or there in `output_dir` where that is on S3; a server
    decides for itself.
    """
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        uri = tracking_uri(config)
        _, _, path = uri.partition("sqlite:///")
        location = Path(path).with_name("mlartifacts").as_uri() if path else None
        if path and not storage.is_local(config.output_dir):
            location = f"{config.output_dir.rstrip('/')}/mlartifacts"
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StoreError(f"tracking.experiment: {name!r} was deleted in {tracking_uri(config)}; restore it or rename")
    return str(found.experiment_id)


def code_revision() -> str:
    """Which code runs: EMBERVLM_REVISION where set, else the git commit (marked where changed), else the version."""
    if os.environ.get("EMBERVLM_REVISION"):
        return os.environ["EMBERVLM_REVISION"]
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        try:
            head = _git(root, "rev-parse", "HEAD")
            return f"{head}-changed" if _git(root, "status", "--porcelain", "--untracked-files=no") else head
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or a folder it distrusts: the version says what it can
    try:
        return f"version {metadata.version('embervlm')}"
    except metadata.PackageNotFoundError:
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
