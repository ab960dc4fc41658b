"""The painter: a scene graph becomes a picture, the same one every time."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import cv2
from PIL import Image

from embervlm.world.ontology import Scene
from embervlm.world.paint import access, conditions, site
from embervlm.world.paint.canvas import Camera, Canvas
from embervlm.world.paint.ground import draw_ground, draw_relief
from embervlm.world.paint.indoor import ROOMS
from embervlm.world.paint.noise import Array
from embervlm.world.paint.outdoor import BACKDROPS
from embervlm.world.paint.photograph import draw_photograph
from embervlm.world.paint.things import COLOUR_RGB, OTHER_HEIGHT, SHAPES, TARGET_HEIGHT, draw_thing, stature
from embervlm.world.paint.view import View, make_view

__all__ = ["contact_sheet", "paint", "paint_bytes"]


def paint(scene: Scene, size: int = 224, photograph: tuple[Array, Array] | None = None) -> Image.Image:
    """Draw a scene as an RGB picture of `size` × `size` pixels (at least 16).

    Its surroundings are painted, or a photograph (its pixels and share of sky, as `draw_photograph` takes them);
    everything that decides is painted on them.
    A pure function of its arguments. Raises ValueError naming the field of the scene that the
    painter cannot draw.
    """
    if size < 16:
        raise ValueError(f"size {size} is too small to draw on; at least 16 pixels are needed")
    # cv2 splits work into threads by default; pictures are small and the caller draws many at once
    cv2.setNumThreads(0)
    canvas = Canvas(size)
    view = make_view(scene, canvas)
    _check_things(scene)
    _scenery(view, photograph)
    height = TARGET_HEIGHT[scene.target.size] * stature(scene.target.kind)
    height *= {"ground": 1.0, "high": 0.8, "underwater": 0.76}[scene.site]
    height *= 1 + 0.05 * (0.5 - min(max(scene.target.depth, 0.0), 1.0))
    site.draw_structure(view, height * 0.42)
    access.draw_behind(view)
    canvas.shadow(view.centre + height * 0.08, view.base, height * 0.62, height * 0.1, 0.62)
    # on top of a tall structure there is no ground for the shadow to fall on
    cast = 0.0 if scene.site == "high" else 0.45 if scene.light in ("day", "dusk") and scene.weather == "calm" else 0.26
    what = scene.target
    if view.dark:
        canvas.gain(view.centre, view.base - height * 0.4, 0.36, 0.36, (0.35, 0.33, 0.28))
    view.fill_light(0.7)
    draw_thing(
        canvas, what.kind, what.color, view.centre, view.base, height, view.rng("target"), outline=True, cast=cast
    )
    view.fill_light(0.0)
    access.draw_before(view)
    site.draw_surface(view)
    conditions.draw_lamps(view)
    conditions.draw_fire(view)
    conditions.draw_weather(view)
    conditions.grade(view)
    return Image.fromarray(canvas.img)


def _check_things(scene: Scene) -> None:
    for where, thing in (("target", scene.target), *((f"others[{i}]", t) for i, t in enumerate(scene.others))):
        if thing.kind not in SHAPES:
            raise ValueError(f"scene.{where}.kind {thing.kind!r} has no shape; kinds are listed in ontology.KINDS")
        if thing.color not in COLOUR_RGB:
            raise ValueError(f"scene.{where}.color {thing.color!r} is unknown; colours are listed in ontology.COLORS")


def _scenery(view: View, photograph: tuple[Array, Array] | None) -> None:
    """Everything behind the target, from the sky forward."""
    if photograph is not None:
        draw_photograph(view, *photograph)
    elif view.indoor:
        draw_ground(view, view.camera)
        ROOMS[view.scene.environment](view)
    else:
        conditions.draw_sky(view)
        draw_ground(view, view.camera)
        BACKDROPS[view.scene.environment](view)
    conditions.draw_fog(view, near=False)
    site.draw_water(view)
    bed = Camera(horizon=0.6, vanish=view.camera.vanish) if view.scene.site == "underwater" else view.camera
    conditions.draw_puddles(view)
    draw_relief(view, bed)
    _others(view)


def _others(view: View) -> None:
    """The things beside the target, far ones first, clear of the middle of the picture."""
    rng = view.rng("others")
    view.fill_light(0.5)
    for thing in sorted(view.scene.others, key=lambda t: -t.depth):
        depth = min(max(thing.depth, 0.0), 1.0)
        x = min(max(thing.x, 0.03), 0.97)
        side = 1 if x >= 0.5 else -1
        height = OTHER_HEIGHT[thing.size] * (1 - 0.45 * depth)
        if view.scene.site == "underwater":
            # they stand on the bank, in the dry
            x = 0.5 + side * (0.36 + 0.12 * abs(x - 0.5) / 0.5)
            y, height = view.surface - 0.02, height * 0.8
        else:
            x = 0.5 + side * max(abs(x - 0.5), 0.27)
            near, far = view.zone + 0.02, view.camera.horizon + 0.09
            y = near + (far - near) * depth
        view.canvas.shadow(x, y, height * 0.6, height * 0.14, 0.55)
        draw_thing(view.canvas, thing.kind, thing.color, x, y, height, rng)
    view.fill_light(0.0)


def paint_bytes(scene: Scene, size: int = 224) -> bytes:
    """The picture of a scene as JPEG; equal scenes give equal bytes. Errors as `paint`."""
    buffer = io.BytesIO()
    paint(scene, size).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 6) -> Image.Image:
    """Pictures of one size side by side, `columns` to a row, on white."""
    if not pictures or columns < 1:
        raise ValueError(
            f"a contact sheet needs at least one picture and one column, got {len(pictures)} and {columns}"
        )
    width, height = pictures[0].size
    gap = max(2, width // 40)
    rows = math.ceil(len(pictures) / columns)
    size = (min(columns, len(pictures)) * (width + gap), rows * (height + gap))
    sheet = Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet
