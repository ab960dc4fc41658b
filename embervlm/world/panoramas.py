"""What the panoramas show, and how a camera looks into one.

A panorama stands for an environment of EmberWorld only where a person who was shown the crop would give it that name.
Directions are degrees of yaw, 0 at the panorama's middle column, clockwise.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from embervlm.world.material import Array, Panorama, load
from embervlm.world.ontology import Scene

#: The height above the ground that the panoramas were taken from, in metres, as near as is known.
TAKEN_FROM = 1.6
FIELD_OF_VIEW = (58.0, 96.0)  # degrees
#: Of the directions that a panorama has for an environment, the share that only validation and test look into.
KEPT_BACK = 0.25


@dataclass(frozen=True)
class Place:
    """Directions `low` to `high` of a panorama, in which it shows an environment.

    `near`: another name would fit as well (a factory hall for a warehouse).
    """

    panorama: str
    environment: str
    low: float = -180.0
    high: float = 180.0
    near: bool = False


#: What EmberWorld's scenes may stand on.
PLACES: tuple[Place, ...] = (
    Place("warehouse", "warehouse"),
    Place("forest", "forest slope"),
    Place("city", "road"),
    Place("park", "farmland"),
    Place("sunrise", "farmland", -165, 60),  # pylons stand in the other directions
)
#: The external test: in no training and no validation, nor shown to the encoder in any other way.
HELD_OUT: tuple[str, ...] = ("bridge", "lab", "venice", "workshop", "sunset", "night", "esplanade")
HELD_OUT_PLACES: tuple[Place, ...] = (
    Place("lab", "laboratory"),
    Place("venice", "harbour", 45, 140),
    Place("workshop", "warehouse", near=True),
    Place("sunset", "facade", -80, -45),
    Place("sunset", "harbour", 40, 100, near=True),
    Place("night", "farmland", near=True),
)


@dataclass(frozen=True)
class Shot:
    """A camera in a panorama: angles in degrees (pitch above the horizon is positive), height in metres."""

    panorama: str
    yaw: float
    pitch: float
    field_of_view: float
    camera_height: float = TAKEN_FROM

    def to_dict(self) -> dict[str, str | float]:
        """As a record's tags have it."""
        return {"background": self.panorama} | {k: v for k, v in asdict(self).items() if k != "panorama"}


@functools.lru_cache(maxsize=2)
def panoramas(folder: str) -> dict[str, Panorama]:
    """The installed panoramas, read once per process. Errors as `material.load`."""
    return load(Path(folder))


def places_of(environment: str) -> list[Place]:
    """Where in the panoramas an environment may be seen in training."""
    return [place for place in PLACES if place.environment == environment]


def sample_shot(scene: Scene, split: str, horizon: float, rng: random.Random) -> Shot | None:
    """A camera for a scene's background, its horizon where the painter's is; None where no panorama shows the place.

    Args:
        scene: gives the environment and the camera's height.
        split: training looks in other directions than validation and test.
        horizon: row of the horizon in the picture, 0 at the top.
        rng: chooses.
    """
    places = places_of(scene.environment)
    if not places:
        return None
    place = rng.choices(places, [p.high - p.low for p in places])[0]
    low, share = (0.0, 1 - KEPT_BACK) if split == "train" else (1 - KEPT_BACK, KEPT_BACK)
    yaw = place.low + (place.high - place.low) * (low + share * rng.random())
    view = rng.uniform(*FIELD_OF_VIEW)
    return Shot(
        place.panorama,
        round(yaw, 1),
        round(pitch_for(horizon, view), 2),
        round(view, 1),
        round(min(max(scene.camera_height, 1.3), 2.2), 2),
    )


def pitch_for(horizon: float, field_of_view: float) -> float:
    """The pitch in degrees that puts the horizon on a row of the picture (0 top, 1 bottom)."""
    focal = 0.5 / math.tan(math.radians(field_of_view) / 2)
    return math.degrees(math.atan2(horizon - 0.5, focal))


def perspective(panorama: Panorama, shot: Shot, size: int) -> tuple[Array, Array]:
    """What a camera sees: pixels (size, size, 3) uint8 RGB and the share of sky in each (size, size) float32.

    Another height than the photographer's moves the ground below the horizon as if it were flat; what stands on it is
    stretched a little with it.
    """
    height, width = panorama.sky.shape
    focal = 0.5 / math.tan(math.radians(shot.field_of_view) / 2)
    pitch = math.radians(shot.pitch)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    right = np.broadcast_to(axis[None, :], (size, size))
    up = (focal * math.sin(pitch) - axis * math.cos(pitch)).astype(np.float32)
    up = np.where(up < 0, up * np.float32(TAKEN_FROM / shot.camera_height), up)
    ahead = (focal * math.cos(pitch) + axis * math.sin(pitch)).astype(np.float32)
    ahead = np.repeat(ahead[:, None], size, 1)
    around = np.arctan2(right, ahead) + np.float32(math.radians(shot.yaw))
    above = np.arctan2(np.repeat(up[:, None], size, 1), np.hypot(right, ahead))
    x = np.mod(around / np.float32(math.tau) + np.float32(0.5), 1) * width - np.float32(0.5)
    y = np.clip((np.float32(0.5) - above / np.float32(math.pi)) * height - np.float32(0.5), 0, height - 1)
    pixels = cv2.remap(panorama.pixels, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    sky = cv2.remap(panorama.sky, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(pixels), np.asarray(sky, np.float32) / 255
