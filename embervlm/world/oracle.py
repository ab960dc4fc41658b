"""Who can do a task in a scene, and why not the others.

A robot may go about a task in any of its media (a *mode*): below the waterline it must swim, elsewhere it
drives, walks or climbs on the ground, or flies. It is able when in at least one mode nothing is unmet.
"""

from __future__ import annotations

from collections.abc import Mapping

from embervlm.world.ontology import REQUIREMENTS, SIZE_KG, Medium, Need, Profile, Scene

_TERRAIN_RANK = {"flat": 0, "uneven": 1, "rough": 2}
_ORDER = {kind: i for i, kind in enumerate(REQUIREMENTS)}


def requirements(scene: Scene, need: Need) -> dict[str, str]:
    """What the task asks of a robot here, by requirement kind, in the order of `REQUIREMENTS`.

    Values say how much: medium "water" | "land or air"; height "10 m"; terrain "uneven" | "rough"; payload and
    manipulation as levels ("15 kg", "gripper", "hand"); the others "yes". Flyers are exempt from height,
    terrain, stairs and gap. A kind that the task does not ask for is absent.
    """
    found: dict[str, str] = {}
    if scene.site == "underwater":
        found["medium"] = "water"
    else:
        found["medium"] = "land or air"
        if scene.site == "high":
            found["height"] = "10 m"
        if scene.terrain != "flat":
            found["terrain"] = scene.terrain
        if scene.access in ("stairs", "gap"):
            found[scene.access] = "yes"
        if scene.access == "narrow":
            found["clearance"] = "yes"
        if scene.weather == "storm":
            found["weather"] = "yes"
        if scene.hazard == "fire":
            found["heat"] = "yes"
    if need.carries:
        found["payload"] = f"{SIZE_KG[scene.target.size]} kg"
    if need.hands:
        found["manipulation"] = "gripper" if need.hands == 1 else "hand"
    if need.fast:
        found["speed"] = "yes"
    if need.enduring:
        found["endurance"] = "yes"
    return {kind: found[kind] for kind in REQUIREMENTS if kind in found}


def unmet(profile: Profile, scene: Scene, need: Need) -> list[str]:
    """The kinds of requirement that the robot does not meet, in the order of `REQUIREMENTS`; empty: it is able.

    A robot with several media is judged in the mode in which it lacks least.
    """
    lacking = {
        kind for kind in ("payload", "manipulation", "speed", "endurance") if not _meets(profile, kind, scene, need)
    }
    if scene.site == "underwater":
        return _sorted(lacking | (set() if "water" in profile.media else {"medium"}))
    modes = [m for m in ("ground", "air") if m in profile.media]
    if not modes:
        return _sorted(lacking | {"medium"})
    best = min((_place_lacks(profile, mode, scene) for mode in modes), key=len)
    return _sorted(lacking | best)


def able(profile: Profile, scene: Scene, need: Need) -> bool:
    """Whether the robot can do the task in this scene."""
    return not unmet(profile, scene, need)


def judge(fleet: Mapping[str, Profile], scene: Scene, need: Need) -> dict[str, list[str]]:
    """For every robot by name the kinds of requirement it does not meet."""
    return {name: unmet(profile, scene, need) for name, profile in fleet.items()}


def surplus(profile: Profile, scene: Scene, need: Need) -> int:
    """How many abilities the robot has beyond what the task asks for: the fewer, the better it is matched."""
    asked = requirements(scene, need)
    has = {
        "height": profile.height,
        "terrain": profile.terrain != "flat",
        "stairs": profile.stairs,
        "gap": profile.gap,
        "clearance": profile.slim,
        "weather": profile.weatherproof,
        "heat": profile.heatproof,
        "payload": profile.payload_kg > 0,
        "manipulation": profile.manipulation > 0,
        "speed": profile.fast,
        "endurance": profile.enduring,
    }
    return len(profile.media) - 1 + sum(flag and kind not in asked for kind, flag in has.items())


def _sorted(kinds: set[str]) -> list[str]:
    return sorted(kinds, key=_ORDER.__getitem__)


def _place_lacks(profile: Profile, mode: Medium, scene: Scene) -> set[str]:
    """What the place asks and the robot lacks when it goes on the ground or through the air."""
    checks: dict[str, bool] = {
        "clearance": scene.access != "narrow" or profile.slim,
        "weather": scene.weather != "storm" or profile.weatherproof,
        "heat": scene.hazard != "fire" or profile.heatproof,
    }
    if mode == "ground":
        checks["height"] = scene.site != "high" or profile.height
        checks["terrain"] = _TERRAIN_RANK[profile.terrain] >= _TERRAIN_RANK[scene.terrain]
        checks["stairs"] = scene.access != "stairs" or profile.stairs
        checks["gap"] = scene.access != "gap" or profile.gap
    return {kind for kind, met in checks.items() if not met}


def _meets(profile: Profile, kind: str, scene: Scene, need: Need) -> bool:
    """Whether the robot meets what the task itself asks for."""
    if kind == "payload":
        return not need.carries or profile.payload_kg >= SIZE_KG[scene.target.size]
    if kind == "manipulation":
        return profile.manipulation >= need.hands
    if kind == "speed":
        return profile.fast or not need.fast
    return profile.enduring or not need.enduring
