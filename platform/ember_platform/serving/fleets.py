"""Which fleet a request asks about: the default, a registered one, or one in the request."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ember_platform.config_serving import LimitsConfig
from ember_platform.serving.limits import check_fleet, fleet_digest
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.schemas import FleetAnswer, FleetRef, RobotIn
from ember_platform.serving.shared import SharedState, StoredFleet
from embervlm.fleet import Fleet, default_fleet

DEFAULT = "default"
#: Registered fleets that a replica remembers between looks at the shared state.
KNOWN = 256


@dataclass(frozen=True)
class NamedFleet:
    """A fleet with the name it was asked for by (None: it came with the request) and its digest."""

    name: str | None
    fleet: Fleet
    digest: str

    @classmethod
    def of(cls, name: str | None, fleet: Fleet) -> NamedFleet:
        """With the digest computed."""
        return cls(name, fleet, fleet_digest(fleet))

    @property
    def ref(self) -> FleetRef:
        """What answers say about it."""
        return FleetRef(name=self.name, digest=self.digest, robots=len(self.fleet))

    def answer(self) -> FleetAnswer:
        """The fleet in full."""
        robots = [RobotIn.model_construct(**robot) for robot in self.fleet.to_dicts()]
        return FleetAnswer(name=self.name or "", digest=self.digest, robots=robots)


class FleetBook:
    """Registered fleets as this replica knows them; asks the shared state for those that it does not."""

    def __init__(self, shared: SharedState, limits: LimitsConfig) -> None:
        self._shared = shared
        self._limits = limits
        self._known: OrderedDict[tuple[str, str], NamedFleet] = OrderedDict()
        self._revision = -1
        self.default = NamedFleet.of(DEFAULT, default_fleet())

    def learn(self, revision: int) -> None:
        """Forget what may have changed elsewhere."""
        if revision != self._revision:
            self._known.clear()
            self._revision = revision

    async def find(self, wanted: str | list[RobotIn] | None, owner: str, field: str = "fleet") -> NamedFleet:
        """The fleet of a request.

        Raises:
            ProblemError: no such fleet, or robots that are refused.
        """
        if wanted is None or wanted == DEFAULT:
            return self.default
        if not isinstance(wanted, str):
            return NamedFleet.of(None, check_fleet(wanted, self._limits, field))
        found = await self.get(owner, wanted)
        if found is None:
            raise ProblemError("unknown-fleet", f"{field}: no fleet of this name is registered with this key's owner.")
        return found

    async def get(self, owner: str, name: str) -> NamedFleet | None:
        """A registered fleet, or None."""
        if name == DEFAULT:
            return self.default
        key = (owner, name)
        if key not in self._known:
            stored = await self._shared.get_fleet(owner, name)
            if stored is None:
                return None
            self._remember(key, NamedFleet(name, Fleet.of(stored.robots), stored.digest))
        return self._known[key]

    async def put(self, owner: str, name: str, fleet: NamedFleet) -> bool:
        """Register a fleet; True where the name is new.

        Raises:
            ProblemError: the name is taken by the default, or there are too many.
        """
        if name == DEFAULT:
            raise ProblemError("invalid", "The name default is the server's own fleet.")
        stored = StoredFleet(name=name, digest=fleet.digest, robots=fleet.fleet.to_dicts())
        outcome = await self._shared.put_fleet(owner, stored, self._limits.fleets)
        if outcome == "full":
            text = f"{self._limits.fleets} fleets are registered; delete one first."
            raise ProblemError("too-many-fleets", text, retry_after_s=60)
        self._remember((owner, name), fleet)
        return outcome == "created"

    async def delete(self, owner: str, name: str) -> None:
        """Forget a registered fleet.

        Raises:
            ProblemError: there is none of this name.
        """
        self._known.pop((owner, name), None)
        if not await self._shared.delete_fleet(owner, name):
            raise ProblemError("not-found", "No fleet of this name is registered.")

    async def list(self, owner: str) -> list[FleetRef]:
        """The registered fleets of an owner, by name."""
        return [
            FleetRef(name=stored.name, digest=stored.digest, robots=len(stored.robots))
            for stored in await self._shared.list_fleets(owner)
        ]

    def _remember(self, key: tuple[str, str], fleet: NamedFleet) -> None:
        self._known[key] = fleet
        self._known.move_to_end(key)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
