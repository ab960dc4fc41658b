"""What every part of the painter needs to know: the scene, the camera, the light, the layout, the dice."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from embervlm.world.ontology import ENVIRONMENTS, Light, Scene, Site, Weather
from embervlm.world.paint.canvas import Camera, Canvas, Rgb, mix

_HORIZON: dict[Site, float] = {"ground": 0.4, "high": 0.62, "underwater": 0.29}
_BASE: dict[Site, float] = {"ground": 0.73, "high": 0.48, "underwater": 0.8}
_ZONE: dict[Site, float] = {"ground": 0.755, "high": 0.815, "underwater": 0.83}

_OUTDOOR_TINT: dict[Light, Rgb] = {
    "day": (1.0, 0.99, 0.95),
    "dusk": (0.95, 0.74, 0.64),
    "night": (0.32, 0.38, 0.55),
    "lamps": (0.4, 0.36, 0.37),
}
_INDOOR_TINT: dict[Light, Rgb] = {
    "day": (0.97, 0.98, 1.0),
    "dusk": (0.86, 0.7, 0.6),
    "night": (0.32, 0.38, 0.54),
    "lamps": (0.44, 0.38, 0.33),
}
_WEATHER_TINT: dict[Weather, Rgb] = {
    "calm": (1.0, 1.0, 1.0),
    "rain": (0.8, 0.86, 0.93),
    "storm": (0.62, 0.68, 0.78),
    "fog": (0.95, 0.96, 0.97),
    "snow": (0.95, 0.98, 1.04),
}
#: Zenith and horizon of a clear sky, and the colour of an overcast one.
SKY: dict[Light, tuple[Rgb, Rgb, Rgb]] = {
    "day": ((74, 132, 208), (206, 224, 238), (176, 184, 192)),
    "dusk": ((74, 66, 118), (252, 158, 92), (152, 132, 138)),
    "night": ((7, 11, 30), (30, 42, 76), (32, 38, 54)),
    "lamps": ((14, 13, 30), (66, 52, 58), (52, 46, 50)),
}
WATER: tuple[Rgb, ...] = ((38, 120, 140), (36, 104, 152), (58, 122, 104), (92, 118, 96), (60, 110, 130))


@dataclass
class View:
    """A scene about to be painted on a canvas.

    `surface` is the picture height of the water's surface (1.0 where there is none to see through),
    `base` where the target stands, `zone` the top of the strip in front of it that holds the obstacle.
    """

    scene: Scene
    canvas: Canvas
    camera: Camera
    indoor: bool
    tint: Rgb
    base: float
    zone: float
    centre: float
    surface: float
    water: Rgb
    #: The ground's colour in white light, where a photograph shows it.
    ground: Rgb | None = None

    def rng(self, part: str) -> np.random.Generator:
        """The dice of one part of the picture: other parts may change without changing this one."""
        return np.random.default_rng([self.scene.seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(part.encode())])

    @property
    def dark(self) -> bool:
        """Whether artificial light would show."""
        return self.scene.light in ("night", "lamps")

    @property
    def air(self) -> Rgb:
        """The colour that distance takes on."""
        _, horizon, overcast = SKY[self.scene.light]
        return mix(horizon, overcast, 0.0 if self.scene.weather == "calm" else 0.8)

    def fill_light(self, share: float) -> None:
        """Draw from now on with a share of plain light added, so that colours can be told; 0 for none."""
        grey = sum(self.tint) / 3 * (1.35 if self.dark else 1.1)
        self.canvas.tint = mix(self.tint, (grey, grey, grey), share)

    def distant(self, share: float) -> None:
        """Draw from now on as seen through a share of air; 0 for nothing between."""
        self.canvas.haze = share * (1.6 if self.scene.weather in ("fog", "snow") and share else 1.0)
        self.canvas.haze = min(self.canvas.haze, 0.92)
        self.canvas.haze_rgb = self.air


def make_view(scene: Scene, canvas: Canvas) -> View:
    """Lay out the picture. Raises ValueError naming the field that the painter does not know."""
    environment = ENVIRONMENTS.get(scene.environment)
    if environment is None:
        raise ValueError(f"scene.environment {scene.environment!r} is not one of {sorted(ENVIRONMENTS)}")
    _check(scene)
    dice = np.random.default_rng([scene.seed & 0xFFFFFFFFFFFFFFFF, 1])
    height = min(max(scene.camera_height, 0.8), 3.0)
    yaw = math.tanh(scene.camera_yaw)
    horizon = _HORIZON[scene.site] - 0.025 * (height - 1.6) + dice.uniform(-0.012, 0.012)
    camera = Camera(horizon=horizon, vanish=0.5 - 0.5 * yaw + dice.uniform(-0.05, 0.05))
    base_tint = (_INDOOR_TINT if environment.indoor else _OUTDOOR_TINT)[scene.light]
    # after dark, clouds take little more away
    weather = mix(
        (1.0, 1.0, 1.0), _WEATHER_TINT[scene.weather], 0.5 if environment.indoor or scene.light != "day" else 1.0
    )
    if scene.weather != "calm":
        grey = sum(base_tint) / 3
        base_tint = mix(base_tint, (grey, grey, grey), 0.55)
    tint = (base_tint[0] * weather[0], base_tint[1] * weather[1], base_tint[2] * weather[2])
    canvas.tint = tint
    shift = dice.uniform(-0.008, 0.008)
    return View(
        scene=scene,
        canvas=canvas,
        camera=camera,
        indoor=environment.indoor,
        tint=tint,
        base=_BASE[scene.site] + shift,
        zone=_ZONE[scene.site] + shift,
        centre=0.5 + (min(max(scene.target.x, 0.4), 0.6) - 0.5) * 0.8,
        surface=0.35 + dice.uniform(-0.01, 0.01) if scene.site == "underwater" else 1.0,
        water=WATER[int(dice.integers(len(WATER)))],
    )


def _check(scene: Scene) -> None:
    known: dict[str, object] = {
        "weather": _WEATHER_TINT,
        "light": SKY,
        "terrain": ("flat", "uneven", "rough"),
        "access": ("open", "stairs", "gap", "narrow"),
        "site": _BASE,
        "hazard": ("none", "fire"),
    }
    for field, values in known.items():
        value = getattr(scene, field)
        if value not in values:  # type: ignore[operator]
            raise ValueError(f"scene.{field} {value!r} is not one of {list(values)}")  # type: ignore[call-overload]
    for where, thing in (("target", scene.target), *((f"others[{i}]", t) for i, t in enumerate(scene.others))):
        if thing.size not in ("small", "medium", "large"):
            raise ValueError(f"scene.{where}.size {thing.size!r} is not one of ['small', 'medium', 'large']")
