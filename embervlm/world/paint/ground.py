"""The ground in perspective: its material, and how even or rough it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from embervlm.world.paint.canvas import Camera, Rgb, mix
from embervlm.world.paint.noise import Array, tile
from embervlm.world.paint.view import View

Pattern = Callable[[Array, Array], Array]


def _stripe(along: Array, width: float) -> Array:
    """1 on the lines at whole numbers of `along`, `width` of the spacing wide, softened with distance."""
    off = np.abs(along - np.round(along))
    soft = np.maximum(np.abs(np.gradient(along, axis=0)), np.abs(np.gradient(along, axis=1))) + 1e-4
    return np.asarray(np.clip((width / 2 + soft / 2 - off) / soft, 0, 1) * np.clip(1.3 - 2.2 * soft, 0, 1), np.float32)


def _tiles(size: float) -> Pattern:
    def pattern(x: Array, z: Array) -> Array:
        return 1 - 0.28 * np.maximum(_stripe(x / size, 0.05), _stripe(z / size, 0.05))

    return pattern


def _furrows(x: Array, z: Array) -> Array:
    fade = np.clip(2.2 / z, 0, 1)
    return np.asarray(1 + 0.3 * np.sin(x * 9.0) * fade, np.float32)


def _lanes(x: Array, z: Array) -> Array:
    dash = (np.mod(z, 3.4) < 1.7) & (np.abs(x) < 0.09)
    edge = np.abs(np.abs(x) - 2.3) < 0.07
    verge = np.abs(x) > 2.75
    return np.where(dash | edge, 2.1, np.where(verge, 0.8, 1.0)).astype(np.float32)


def _planks(x: Array, z: Array) -> Array:
    board = 1 + 0.12 * np.sin(np.floor(z / 0.45) * 12.9898)
    return np.asarray(board * (1 - 0.35 * _stripe(z / 0.45, 0.09)), np.float32)


def _sleepers(x: Array, z: Array) -> Array:
    rail = np.abs(np.abs(x) - 0.75) < 0.06
    sleeper = (np.mod(z, 0.9) < 0.32) & (np.abs(x) < 1.15)
    return np.where(rail, 1.9, np.where(sleeper, 0.7, 1.0)).astype(np.float32)


def _bays(x: Array, z: Array) -> Array:
    line = np.abs(np.abs(x) - 1.5) < 0.06
    return np.where(line, 1.55, 1 - 0.12 * np.maximum(_stripe(x / 1.5, 0.02), _stripe(z / 1.5, 0.02))).astype(
        np.float32
    )


@dataclass(frozen=True)
class Material:
    """What a ground is made of. `soft` and `fine` are the strengths of the two noises."""

    colours: tuple[Rgb, ...]
    soft: float = 0.12
    fine: float = 0.1
    pattern: Pattern | None = None
    natural: bool = False


MATERIALS: dict[str, Material] = {
    "warehouse": Material(((150, 148, 142), (136, 140, 142)), pattern=_bays),
    "stairwell": Material(((150, 140, 128), (140, 142, 146)), pattern=_tiles(0.6)),
    "hospital corridor": Material(((176, 196, 190), (190, 196, 186), (170, 188, 200)), 0.05, 0.03, _tiles(0.9)),
    "facade": Material(((158, 152, 146), (144, 144, 148)), pattern=_tiles(0.5)),
    "roof": Material(((116, 114, 116), (128, 112, 104)), 0.14, 0.18),
    "power line": Material(((112, 134, 68), (136, 142, 76)), 0.22, 0.24, natural=True),
    "forest slope": Material(((92, 96, 54), (104, 88, 58)), 0.28, 0.28, natural=True),
    "rubble": Material(((146, 134, 120), (134, 128, 124)), 0.2, 0.26, natural=True),
    "tunnel": Material(((112, 108, 104), (118, 110, 98)), 0.16, 0.14, _sleepers),
    "harbour": Material(((146, 128, 106), (138, 136, 134)), 0.1, 0.1, _planks),
    "river bed": Material(((158, 144, 116), (146, 142, 130)), 0.18, 0.22, natural=True),
    "road": Material(((84, 84, 88), (96, 94, 94)), 0.1, 0.14, _lanes),
    "farmland": Material(((128, 102, 62), (120, 126, 58)), 0.16, 0.16, _furrows, natural=True),
    "burning building": Material(((104, 92, 84), (96, 88, 86)), 0.24, 0.16, _tiles(0.8)),
    "laboratory": Material(((196, 200, 206), (186, 192, 204)), 0.03, 0.03, _tiles(0.45)),
    "construction site": Material(((164, 132, 92), (154, 134, 104)), 0.2, 0.18, natural=True),
}


def ground_colour(view: View) -> Rgb:
    """The colour of the ground here, a photograph's where there is one; snow lies on it outdoors."""
    if view.ground is not None:
        colour = view.ground
    else:
        colours = MATERIALS[view.scene.environment].colours
        rng = view.rng("ground colour")
        colour = mix(colours[0], colours[int(rng.integers(len(colours)))], float(rng.uniform(0.3, 1)))
    if view.scene.weather == "snow":
        colour = mix(colour, (232, 236, 242), 0.25 if view.indoor else 0.84)
    return colour


@dataclass(frozen=True)
class _Plane:
    """The ground in perspective: for each of its rows and pixels in metres how far ahead and how far to the right."""

    depth: Array
    x: Array
    z: Array
    ox: float
    oz: float

    def sample(self, name: str, scale: float) -> Array:
        """A noise tile laid on the ground, `scale` texels to the metre."""
        return np.asarray(
            cv2.remap(
                tile(name),
                self.x * np.float32(scale) + np.float32(self.ox),
                self.z * np.float32(scale) + np.float32(self.oz),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_WRAP,
            )
        )


def _plane(view: View, camera: Camera, first: int) -> _Plane:
    size = view.canvas.size
    rows = (np.arange(first, size, dtype=np.float32) + 0.5) / size
    rise = np.maximum(rows - camera.horizon, 0.6 / size)
    depth = (camera.focal * camera.height / rise).astype(np.float32)
    columns = (np.arange(size, dtype=np.float32) + 0.5) / size - camera.vanish
    z = np.repeat(depth[:, None], size, 1)
    x = columns[None, :] * z / np.float32(camera.focal)
    ox, oz = view.rng("ground").uniform(0, 256, 2)
    return _Plane(depth, x, z, float(ox), float(oz))


def _terrain(view: View, plane: _Plane) -> Array | float:
    """What bumps and stones add to the light on the ground."""
    middle = np.clip(9 / plane.z, 0, 1)
    if view.scene.terrain == "uneven":
        return np.asarray(0.6 * middle * plane.sample("bumps", 22.0))
    if view.scene.terrain == "rough":
        return np.asarray(0.7 * middle * plane.sample("stones", 52.0))
    return 0.0


def terrain_light(view: View, camera: Camera, first: int) -> Array:
    """The light on a photographed ground from row `first` on, by how even or rough the scene's is."""
    plane = _plane(view, camera, first)
    return np.asarray(np.clip(np.ones_like(plane.z) + _terrain(view, plane), 0.12, 1.9), np.float32)


def draw_ground(view: View, camera: Camera, bed: bool = False) -> None:
    """Paint everything below the camera's horizon. `bed`: sand and silt under water instead of the material."""
    canvas, scene = view.canvas, view.scene
    first = max(0, int(np.ceil(camera.horizon * canvas.size)))
    plane = _plane(view, camera, first)
    depth, x, z = plane.depth, plane.x, plane.z
    material = MATERIALS[scene.environment]
    near = np.clip(4.5 / z, 0, 1)
    light = 1 + material.soft * plane.sample("soft", 18.0) + material.fine * near * plane.sample("fine", 36.0)
    if material.pattern is not None and not bed:
        light *= material.pattern(x + np.float32(0.02) * plane.sample("soft", 30.0), z)
    light += _terrain(view, plane)
    colour = mix((188, 170, 128), view.water, 0.3) if bed else ground_colour(view)
    lit = np.asarray(view.canvas.seen(colour), np.float32)
    far = view.water if bed else view.air
    thick = 0.5 if bed else (0.28 if not view.indoor else 0.06)
    share = np.clip(1 - np.exp(-(depth - 2.0) * thick / 4), 0, 0.9)[:, None, None].astype(np.float32)
    air = np.asarray(view.canvas.seen(far) if bed else far, np.float32)
    if view.indoor and not bed:
        air = air * np.float32(0.35) + lit * np.float32(0.4)
    body = np.clip(light, 0.12, 1.9)[:, :, None] * lit
    canvas.img[first:] = np.clip(body * (1 - share) + air * share, 0, 255).astype(np.uint8)


def draw_relief(view: View, camera: Camera) -> None:
    """Mounds on uneven ground, rocks on rough, standing up from it; nothing on flat."""
    if view.scene.terrain == "flat":
        return
    rng = view.rng("relief")
    colour = ground_colour(view)
    if view.scene.site == "underwater":
        colour = mix((150, 140, 116), view.water, 0.35)
    top = camera.horizon + (0.07 if view.scene.site != "high" else 0.045)
    rough = view.scene.terrain == "rough"
    # most of it where no obstacle hides the ground
    count, ahead = (20, 10) if rough else (8, 5)
    ys = np.sort(np.concatenate([rng.uniform(top, view.zone + 0.03, count), rng.uniform(view.zone, 1.02, ahead)]))
    for y in ys:
        row, x = float(y), float(rng.uniform(-0.05, 1.05))
        scale = (row - camera.horizon) / (0.98 - camera.horizon)
        if rough:
            r = float(rng.uniform(0.035, 0.08)) * (0.55 + 0.8 * scale)
            _rock(view, x, row, r, mix(colour, (128, 122, 116), 0.5), rng)
        else:
            near = 0.5 + 0.8 * scale
            _mound(view, x, row, float(rng.uniform(0.15, 0.25)) * near, float(rng.uniform(0.045, 0.07)) * near, colour)


def _mound(view: View, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
    turn = np.linspace(0, np.pi, 15)
    outline = [(x + rx * float(np.cos(a)), y - ry * float(np.sin(a)) ** 1.5) for a in turn]
    foot = [(x - rx * 0.5, y + ry * 0.25), (x + rx * 0.5, y + ry * 0.25)]
    view.canvas.shadow(x + rx * 0.5, y + ry * 0.1, rx * 0.9, ry * 0.7, 0.45)
    view.canvas.fill(
        [*outline, *foot], colour, down=(1.32, 0.85), across=(1.15, 0.55), grain="fine", amp=0.2, texels=120
    )
    view.canvas.line([(p[0], p[1] + 0.004) for p in outline[5:12]], colour, 0.006, 1.3)


def _rock(view: View, x: float, y: float, r: float, colour: Rgb, rng: np.random.Generator) -> None:
    canvas = view.canvas
    canvas.shadow(x + r * 0.3, y, r * 1.5, r * 0.5, 0.5)
    k = rng.uniform(0.85, 1.1)
    a, b, c = rng.uniform(0.5, 0.9), rng.uniform(0.75, 1.15), rng.uniform(0.45, 0.8)
    left, peak, right = (x - r, y - r * 0.15), (x - r * 0.2, y - r * b), (x + r, y - r * 0.2)
    shoulder, mid = (x - r * 0.75, y - r * a), (x + r * 0.15, y - r * 0.4)
    canvas.poly(
        (
            left,
            shoulder,
            peak,
            (x + r * 0.6, y - r * c),
            right,
            (x + r * 0.5, y + r * 0.15),
            (x - r * 0.6, y + r * 0.15),
        ),
        colour,
        k * 0.55,
    )
    canvas.poly((left, shoulder, peak, mid, (x - r * 0.3, y + r * 0.12), (x - r * 0.6, y + r * 0.15)), colour, k * 0.95)
    canvas.poly((shoulder, peak, (x + r * 0.6, y - r * c), mid), colour, k * 1.28)
