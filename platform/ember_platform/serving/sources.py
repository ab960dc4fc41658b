"""Where versions come from: an alias of the registry, or one model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ember_platform.config import RunConfig
from ember_platform.mlflow_store import open_store
from ember_platform.registry import (
    CHALLENGER,
    CHAMPION,
    Registered,
    RegistryError,
    folder_digest,
    registered_folder,
    resolve,
)
from ember_platform.serving.engine import LINEAGE, Facts

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Found:
    """A version that could be loaded: what is known of it, how to get its folder, and whom it replaced."""

    facts: Facts
    fetch: Callable[[], Path]
    replaced: str | None = None


class Source(Protocol):
    """What is to be served. All calls may take long and raise `RegistryError` or what a network raises."""

    def champion(self) -> Found:
        """The version to serve now."""
        ...

    def challenger(self) -> Found | None:
        """The version to compare it with, if there is one."""
        ...

    def version(self, number: str) -> Found:
        """A version by its number."""
        ...


class FolderSource:
    """A model folder: one version, which never changes."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        if not (self._folder / "config.json").is_file():
            raise RegistryError(f"serving.model: {folder} is not a saved model, it has no config.json")
        digest = folder_digest(self._folder)
        facts = Facts("folder", f"dir-{digest[:12]}", None, "folder", digest)
        self._found = Found(facts, lambda: self._folder)

    def champion(self) -> Found:
        """The folder."""
        return self._found

    def challenger(self) -> Found | None:
        """None: a folder has no rival."""
        return None

    def version(self, number: str) -> Found:
        """The folder, where it is asked for by its own name."""
        if number != self._found.facts.version:
            raise RegistryError(f"a folder is served; it has no version {number}")
        return self._found


class RegistrySource:
    """`models:/name@alias`, and the alias `challenger` of the same name."""

    def __init__(self, config: RunConfig, uri: str) -> None:
        self._config = config
        self._uri = uri
        self._name = uri.removeprefix("models:/").partition("@")[0].partition("/")[0]
        self._client: MlflowClient | None = None

    def champion(self) -> Found:
        """What the alias names now."""
        return self._resolve(self._uri)

    def challenger(self) -> Found | None:
        """What `challenger` names now, or None."""
        try:
            return self._resolve(f"models:/{self._name}@{CHALLENGER}")
        except RegistryError:
            return None  # no such alias: nobody challenges

    def version(self, number: str) -> Found:
        """A version by number."""
        return self._resolve(f"models:/{self._name}/{number}")

    def _resolve(self, uri: str) -> Found:
        if self._client is None:
            self._client = open_store(self._config)
        found = resolve(self._config, uri, self._client)
        return Found(facts_of(found), lambda: registered_folder(self._config, found), found.tags.get("replaced"))


def facts_of(found: Registered) -> Facts:
    """What the endpoint tells of a registered version."""
    content: dict[str, Any] = json.loads(found.tags.get("metrics", "{}"))
    figures = content.get("metrics", {})
    return Facts(
        name=found.name,
        version=str(found.version),
        alias=found.alias,
        source=f"models:/{found.name}/{found.version}",
        digest=found.tags.get("model_digest"),
        lineage={key: found.tags[key] for key in LINEAGE if key in found.tags},
        metrics={k: float(v) for k, v in figures.items() if isinstance(v, int | float)},
    )


def source_of(config: RunConfig) -> Source:
    """The source that `serving.model` names."""
    uri = config.serving.model or f"models:/{config.registry.prefix}@{CHAMPION}"
    return RegistrySource(config, uri) if uri.startswith("models:/") else FolderSource(uri)
