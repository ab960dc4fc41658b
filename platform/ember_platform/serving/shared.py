"""What all replicas share: registered fleets, what keys have used, versions that were sent back.

`LocalState` keeps it in one process and in a file below `serving.state_dir`. On Ray Serve it lives in a deployment of
one replica, which the others call; they go on with what they know while it restarts.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from ember_platform.serving.keys import WINDOWS, Counts, added

logger = logging.getLogger(__name__)

#: A replica that has not been heard of for so long does not count any more.
REPLICA_GONE_S = 30.0


class StoredFleet(BaseModel):
    """A registered fleet."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    robots: list[dict[str, Any]]


class Verdict(BaseModel):
    """Why a version gets no traffic, and when (seconds since the epoch) that was found."""

    model_config = ConfigDict(frozen=True)

    why: str
    at: float


class Snapshot(BaseModel):
    """What a replica learns when it syncs."""

    model_config = ConfigDict(frozen=True)

    usage: Counts
    fleets_revision: int
    rejected: dict[str, Verdict]
    replicas: int


class SharedState(Protocol):
    """Calls to the shared state. `owner` keeps the fleets of different keys' owners apart."""

    async def put_fleet(self, owner: str, fleet: StoredFleet, most: int) -> str:
        """Register; gives "created", "replaced" or "full"."""
        ...

    async def get_fleet(self, owner: str, name: str) -> StoredFleet | None: ...

    async def delete_fleet(self, owner: str, name: str) -> bool: ...

    async def list_fleets(self, owner: str) -> list[StoredFleet]: ...

    async def sync(
        self, replica: str, usage: Counts, rejected: dict[str, Verdict], aliases: dict[str, float]
    ) -> Snapshot:
        """Report what was used and which versions were sent back, and learn the same of the others.

        `aliases` are the versions that the followed aliases name, with the time at which that was seen. Once no alias
        names a version any more, a verdict about it ends: to name it again is a second try.
        """
        ...


class LocalState:
    """The shared state in one process."""

    def __init__(self, folder: str | None = None) -> None:
        self._path = Path(folder, "state.json") if folder else None
        self._fleets: dict[str, dict[str, StoredFleet]] = {}
        self._usage: Counts = {}
        self._rejected: dict[str, Verdict] = {}
        self._revision = 0
        self._seen: dict[str, float] = {}
        self._saved = 0.0
        if self._path is not None and self._path.is_file():
            self._load(self._path)

    async def put_fleet(self, owner: str, fleet: StoredFleet, most: int) -> str:
        """See `SharedState`."""
        fleets = self._fleets.setdefault(owner, {})
        outcome = "replaced" if fleet.name in fleets else "created"
        if outcome == "created" and len(fleets) >= most:
            return "full"
        fleets[fleet.name] = fleet
        self._changed()
        return outcome

    async def get_fleet(self, owner: str, name: str) -> StoredFleet | None:
        """See `SharedState`."""
        return self._fleets.get(owner, {}).get(name)

    async def delete_fleet(self, owner: str, name: str) -> bool:
        """See `SharedState`."""
        found = self._fleets.get(owner, {}).pop(name, None) is not None
        if found:
            self._changed()
        return found

    async def list_fleets(self, owner: str) -> list[StoredFleet]:
        """See `SharedState`."""
        return sorted(self._fleets.get(owner, {}).values(), key=lambda fleet: fleet.name)

    async def sync(
        self, replica: str, usage: Counts, rejected: dict[str, Verdict], aliases: dict[str, float]
    ) -> Snapshot:
        """See `SharedState`."""
        now = time.time()
        current = {kind: int(now // seconds) for kind, seconds in WINDOWS.items()}
        self._usage = added(self._usage, usage)
        for kinds in self._usage.values():
            for kind in [k for k, (window, _) in kinds.items() if window < current[k]]:
                del kinds[kind]
        self._usage = {key: kinds for key, kinds in self._usage.items() if kinds}
        verdicts = {**self._rejected, **rejected}
        # Seen before the verdict, an alias may have been another's: that replica is behind, and no second try is meant.
        latest = max(aliases.values(), default=0.0)
        verdicts = {name: v for name, v in verdicts.items() if name in aliases or latest <= v.at}
        changed, self._rejected = verdicts != self._rejected, verdicts
        self._seen[replica] = now
        self._seen = {name: at for name, at in self._seen.items() if now - at < REPLICA_GONE_S}
        if changed or (usage and now - self._saved > 5.0):  # a crash forgets at most seconds of usage
            self._save()
        return Snapshot(
            usage=self._usage,
            fleets_revision=self._revision,
            rejected=self._rejected,
            replicas=len(self._seen),
        )

    def _changed(self) -> None:
        self._revision += 1
        self._save()

    def _load(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            self._fleets = {
                owner: {name: StoredFleet.model_validate(fleet) for name, fleet in fleets.items()}
                for owner, fleets in data["fleets"].items()
            }
            self._usage = {
                key: {kind: (int(at), int(count)) for kind, (at, count) in kinds.items()}
                for key, kinds in data["usage"].items()
            }
            self._rejected = {name: Verdict.model_validate(verdict) for name, verdict in data["rejected"].items()}
            self._revision = int(data["revision"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not readable as the endpoint's state ({error}); move it away") from error

    def _save(self) -> None:
        if self._path is None:
            return
        self._saved = time.time()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "fleets": {o: {n: f.model_dump() for n, f in fleets.items()} for o, fleets in self._fleets.items()},
            "usage": self._usage,
            "rejected": {name: verdict.model_dump() for name, verdict in self._rejected.items()},
            "revision": self._revision,
        }
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(self._path)
