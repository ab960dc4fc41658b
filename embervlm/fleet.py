"""Robots and fleets: what a caller hands to `select_robots`.

A robot is four things in words: its name, what it can do, what it cannot, and where it works. The
model reads nothing else, so a robot that nobody trained on is chosen from its description alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

_LISTS = ("capabilities", "limitations", "environments")


class FleetError(ValueError):
    """A fleet that cannot be used. The message names the robot and the field."""


@dataclass(frozen=True)
class Robot:
    """One robot in words."""

    name: str
    capabilities: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Any, where: str = "robot") -> Robot:
        """Check and convert a mapping; `where` prefixes error messages.

        Raises:
            FleetError: not a mapping, an unknown key, no name, or a list that is not one of strings.
        """
        if not isinstance(data, dict):
            raise FleetError(f"{where}: expected a mapping with 'name', found {type(data).__name__}")
        unknown = sorted(set(data) - {"name", *_LISTS})
        if unknown:
            raise FleetError(f"{where}: unknown field {unknown[0]!r}; known are name, {', '.join(_LISTS)}")
        name = data.get("name")
        if not isinstance(name, str) or not name.strip():
            raise FleetError(f"{where}.name: a robot needs a name that is not empty")
        lists: dict[str, tuple[str, ...]] = {}
        for key in _LISTS:
            value = data.get(key)
            value = [] if value is None else value
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise FleetError(f"{where}.{key}: expected a list of strings, found {value!r}")
            items = list(value)
            for i, item in enumerate(items):
                if not isinstance(item, str) or not item.strip():
                    raise FleetError(f"{where}.{key}[{i}]: expected a text that is not empty, found {item!r}")
            lists[key] = tuple(item.strip() for item in items)
        return cls(name.strip(), **lists)

    def to_dict(self) -> dict[str, Any]:
        """The robot as plain lists and strings, as YAML, JSON and the record schema hold it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Fleet(Sequence[Robot]):
    """Robots with distinct names, in the order given. The order never changes an answer."""

    def __init__(self, robots: Iterable[Robot]) -> None:
        self.robots = tuple(robots)
        if not self.robots:
            raise FleetError("fleet: empty; name at least one robot")
        seen: set[str] = set()
        for robot in self.robots:
            if robot.name in seen:
                raise FleetError(f"fleet: two robots are called {robot.name!r}; names must differ")
            seen.add(robot.name)

    def __getitem__(self, index: Any) -> Any:
        return self.robots[index]

    def __len__(self) -> int:
        return len(self.robots)

    def __iter__(self) -> Iterator[Robot]:
        return iter(self.robots)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fleet) and self.robots == other.robots

    def __hash__(self) -> int:
        return hash(self.robots)

    def __repr__(self) -> str:
        return f"Fleet({', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """The robots' names in order."""
        return [robot.name for robot in self.robots]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The robots as plain mappings."""
        return [robot.to_dict() for robot in self.robots]

    @classmethod
    def of(cls, fleet: Fleet | str | Path | Iterable[Robot | dict[str, Any]] | None) -> Fleet:
        """A fleet from whatever a caller has: None (the default five), a Fleet, a list, or a file.

        Raises:
            FleetError: what is wrong, with the robot's index and the field.
        """
        if fleet is None:
            return default_fleet()
        if isinstance(fleet, Fleet):
            return fleet
        if isinstance(fleet, str | Path):
            return cls.from_file(fleet)
        if isinstance(fleet, dict) or not isinstance(fleet, Iterable):
            raise FleetError(f"fleet: expected a list of robots or a file, found {type(fleet).__name__}")
        return cls(r if isinstance(r, Robot) else Robot.from_dict(r, f"robots[{i}]") for i, r in enumerate(fleet))

    @classmethod
    def from_file(cls, path: str | Path) -> Fleet:
        """A fleet from YAML or JSON: `{"robots": [{"name": …, "capabilities": […], …}, …]}`.

        Raises:
            FleetError: the file is missing, not readable as YAML/JSON, or its content is wrong.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except OSError as error:
            raise FleetError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (yaml.YAMLError, ValueError) as error:
            raise FleetError(f"{path}: not valid YAML or JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("robots"), list):
            raise FleetError(f"{path}: expected a mapping with a list under 'robots'")
        try:
            return cls(Robot.from_dict(r, f"robots[{i}]") for i, r in enumerate(data["robots"]))
        except FleetError as error:
            raise FleetError(f"{path}: {error}") from error


def default_fleet() -> Fleet:
    """The five robots that the product is named for, always in this order.

    Their wording is that of the public robot-selection dataset (MIT), so that both agree.
    """
    return Fleet(
        (
            Robot(
                "Drone",
                ("fastest", "aerial navigation", "surveillance", "lightweight transport", "aerial inspection"),
                ("limited payload", "loud", "weather dependent", "battery life"),
                ("outdoor", "large indoor spaces", "hard to reach areas"),
            ),
            Robot(
                "Underwater Robot",
                ("underwater navigation", "deep sea exploration", "marine inspection", "underwater manipulation"),
                ("water environments only", "communication limitations", "pressure constraints"),
                ("underwater", "marine", "pools", "pipes", "ocean exploration"),
            ),
            Robot(
                "Humanoid",
                ("manipulation", "walking", "human interaction", "complex tasks", "tool use"),
                ("slow movement", "balance issues", "high power consumption"),
                ("indoor", "human environments", "stairs", "complex terrain"),
            ),
            Robot(
                "Robot with Wheels",
                ("fast movement", "good payload", "stable platform", "efficient"),
                ("flat surfaces only", "limited climbing", "obstacle avoidance"),
                ("indoor", "warehouse", "flat outdoor areas", "roads"),
            ),
            Robot(
                "Robot with Legs",
                ("rough terrain navigation", "stability", "load carrying", "inspection"),
                ("limited manipulation", "height restrictions"),
                ("outdoor", "uneven terrain", "stairs", "industrial sites", "search and rescue"),
            ),
        )
    )
