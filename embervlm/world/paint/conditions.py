"""Sky, weather, lamps, fire, and the last touch of the camera."""

from __future__ import annotations

import cv2
import numpy as np

from embervlm.world.paint.canvas import Rgb, mix
from embervlm.world.paint.noise import Array, crop
from embervlm.world.paint.view import SKY, View

#: How much of the sky clouds hide.
OVERCAST = {"calm": 0.0, "rain": 0.8, "storm": 0.95, "fog": 0.85, "snow": 0.85}
_EXPOSURE = {"day": 132.0, "dusk": 104.0, "night": 76.0, "lamps": 86.0}
_BRIGHT = {"calm": 1.0, "rain": 0.95, "storm": 0.88, "fog": 1.04, "snow": 1.12}
_GRADE: dict[str, Rgb] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (1.06, 0.98, 0.94),
    "night": (0.92, 0.98, 1.1),
    "lamps": (1.06, 1.0, 0.9),
}


def draw_sky(view: View) -> None:
    """Gradient, clouds, sun, moon and stars, over the whole picture."""
    scene, canvas = view.scene, view.canvas
    rng = view.rng("sky")
    size = canvas.size
    zenith, horizon, grey = SKY[scene.light]
    cover = OVERCAST[scene.weather]
    if scene.weather == "storm":
        grey = (grey[0] * 0.6, grey[1] * 0.62, grey[2] * 0.68)
    warm = float(rng.uniform(-0.08, 0.08))
    zenith, horizon = mix(mix(zenith, grey, cover), horizon, 0.1 + warm), mix(horizon, grey, cover * 0.85)
    t = np.clip((np.arange(size, dtype=np.float32) + 0.5) / size / max(view.camera.horizon, 0.1), 0, 1)[:, None, None]
    t = t**1.3
    sky = np.asarray(zenith, np.float32) * (1 - t) + np.asarray(horizon, np.float32) * t
    sky = np.repeat(sky, size, 1)
    clouds = crop("cloud", size, size, float(rng.uniform()), float(rng.uniform()), 150.0)
    clouds = cv2.resize(clouds, (size, max(1, size // 2)), interpolation=cv2.INTER_AREA)
    clouds = np.vstack([clouds, clouds[::-1]])[:size]
    if clouds.shape[0] < size:
        clouds = np.vstack([clouds, clouds[-1:]])
    if scene.weather in ("calm", "snow", "fog"):
        share = np.clip((clouds - rng.uniform(0.0, 0.3)) * 1.8, 0, 0.85)[:, :, None]
        bright = mix(horizon, (255, 255, 255), {"day": 0.75, "dusk": 0.12, "night": 0.06, "lamps": 0.06}[scene.light])
        sky = sky * (1 - share) + np.asarray(bright, np.float32) * share
    else:
        depth = 0.42 if scene.weather == "storm" else 0.2
        sky = sky * (1 + depth * np.clip(clouds * 1.6, -1, 1))[:, :, None]
    canvas.img[:] = np.clip(sky, 0, 255).astype(np.uint8)
    _lights_in_the_sky(view, rng)


def _lights_in_the_sky(view: View, rng: np.random.Generator) -> None:
    scene, canvas = view.scene, view.canvas
    x, top = float(rng.uniform(0.1, 0.9)), view.camera.horizon
    if scene.weather == "storm":
        bolt = [(x, 0.0)]
        while bolt[-1][1] < top:
            bolt.append((bolt[-1][0] + float(rng.uniform(-0.06, 0.06)), bolt[-1][1] + float(rng.uniform(0.03, 0.08))))
        canvas.glow(x, top * 0.4, 0.3, 0.4, (110, 120, 160), 0.8)
        canvas.line(bolt, (190, 200, 255), 0.012, raw=True)
        canvas.line(bolt, (255, 255, 255), 0.006, raw=True)
        return
    if scene.weather != "calm":
        return
    if scene.light == "day":
        canvas.glow(x, top * 0.3, 0.17, 0.17, (255, 236, 180), 0.55)
        canvas.ellipse(x, top * 0.3, 0.03, 0.03, (255, 252, 232), raw=True)
    elif scene.light == "dusk":
        canvas.glow(x, top * 0.95, 0.5, 0.26, (255, 140, 60), 0.7)
        canvas.ellipse(x, top * 0.88, 0.045, 0.045, (255, 222, 150), raw=True)
    elif scene.light == "night":
        for px, py in rng.uniform(0, 1, (40, 2)):
            canvas.ellipse(float(px), float(py) * top, 0.0022, 0.0022, (210, 215, 240), raw=True)
        canvas.glow(x, top * 0.3, 0.16, 0.16, (90, 110, 170), 0.7)
        canvas.ellipse(x, top * 0.3, 0.036, 0.036, (235, 236, 222), raw=True)
        canvas.ellipse(x + 0.012, top * 0.29, 0.01, 0.008, (205, 206, 196), raw=True)


def draw_lamps(view: View) -> None:
    """Lamp posts outdoors, hanging lamps indoors, with their pools of warm light."""
    if view.scene.light != "lamps":
        return
    canvas, rng = view.canvas, view.rng("lamps")
    glow, ground = (255, 190, 100), view.zone + 0.06
    for side in (-1, 1):
        x = 0.5 + side * float(rng.uniform(0.3, 0.38))
        if view.indoor:
            y = float(rng.uniform(0.1, 0.16))
            canvas.line(((x, 0), (x, y)), (20, 20, 22), 0.008, raw=True)
            canvas.poly(
                ((x - 0.07, y + 0.05), (x + 0.07, y + 0.05), (x + 0.02, y), (x - 0.02, y)), (52, 60, 56), raw=True
            )
        else:
            y = float(rng.uniform(0.1, 0.17))
            canvas.line(((x, view.base), (x, y)), (24, 24, 28), 0.012, raw=True)
            canvas.line(((x, y), (x - side * 0.07, y - 0.012)), (24, 24, 28), 0.01, raw=True)
            x -= side * 0.07
        cone = ((x - 0.035, y + 0.05), (x + 0.035, y + 0.05), (x + 0.2, ground), (x - 0.2, ground))
        canvas.fill(cone, glow, down=(1.0, 1.0), alpha=0.09, raw=True)
        canvas.gain(x, y + 0.05, 0.34, 0.34, (1.1, 0.85, 0.5))
        canvas.gain(x - side * 0.1, ground, 0.48, 0.24, (1.7, 1.3, 0.75))
        canvas.glow(x, y + 0.045, 0.13, 0.13, glow, 0.85)
        canvas.ellipse(x, y + 0.045, 0.034, 0.016, (255, 246, 214), raw=True)
    canvas.gain(view.centre, view.base - 0.1, 0.42, 0.42, (0.62, 0.58, 0.5))


def draw_fire(view: View) -> None:
    """Flames on both sides of the target's foot, their glow, and smoke."""
    if view.scene.hazard != "fire":
        return
    canvas, rng = view.canvas, view.rng("fire")
    foot = view.zone - 0.01
    places = [0.5 + s * float(rng.uniform(0.25, 0.33)) for s in (-1, 1)] + [float(rng.choice([0.08, 0.92]))]
    for x in places:
        for i in range(7):
            rise = 0.1 + 0.075 * i
            r = 0.07 + 0.018 * i
            drift = x + float(rng.uniform(-0.03, 0.03)) + 0.012 * i
            canvas.gain(drift, foot - 0.1 - rise, r, r, (-0.42, -0.42, -0.4))
    canvas.gain(view.centre, foot, 0.7, 0.5, (0.5, 0.2, 0.0))
    for i, x in enumerate(places):
        tall = float(rng.uniform(0.2, 0.28)) * (1.0 if i < 2 else 0.7)
        canvas.glow(x, foot - tall * 0.4, 0.28, 0.3, (255, 120, 30), 0.75)
        for j in range(5):
            _flame(view, x + (j - 2) * 0.034, foot + 0.008 * (j % 2), tall * float(rng.uniform(0.55, 1.0)), rng)
    for px, py in rng.uniform(0, 1, (26, 2)):
        canvas.ellipse(float(px), foot - 0.5 * float(py), 0.003, 0.003, (255, 180, 60), raw=True)


def _flame(view: View, x: float, y: float, height: float, rng: np.random.Generator) -> None:
    lean = float(rng.uniform(-0.2, 0.2))
    for colour, k in (((214, 52, 16), 1.0), ((250, 132, 22), 0.76), ((255, 206, 64), 0.52), ((255, 246, 190), 0.28)):
        h, w = height * k, height * 0.21 * (0.5 + 0.5 * k)
        points = (
            (-w, 0.0),
            (-w * 1.15, 0.25 * h),
            (-w * 0.55, 0.5 * h),
            (-w * 0.7 + lean * h * 0.4, 0.72 * h),
            (lean * h, h),
            (w * 0.3 + lean * h * 0.4, 0.66 * h),
            (w * 0.85, 0.42 * h),
            (w * 1.1, 0.2 * h),
            (w, 0.0),
        )
        view.canvas.poly([(x + px, y - py) for px, py in points], colour, raw=True)


def draw_fog(view: View, near: bool) -> None:
    """Fog between the viewer and the background, or (`near`) a thin patchy veil over everything."""
    if view.scene.weather != "fog":
        return
    canvas, rng = view.canvas, view.rng("fog")
    size = canvas.size
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    gap = np.clip((rows - view.camera.horizon) / (1 - view.camera.horizon), 0, 1)
    cover = np.where(rows < view.camera.horizon, 0.8, 0.8 * (1 - gap) ** 1.2)
    if near:
        patches = crop("cloud", size, size, float(rng.uniform()), float(rng.uniform()), 120.0)
        share = np.clip(0.14 + 0.3 * patches, 0, 0.42)
        share[int(min(view.surface, 1.0) * size) :] = 0
    else:
        share = np.repeat((cover * (0.8 if view.indoor else 1.0))[:, None], size, 1)
    colour = np.asarray(mix(view.air, (220, 222, 226), 0.45 if not view.dark else 0.12), np.float32)
    canvas.img = (canvas.img * (1 - share[:, :, None]) + colour * share[:, :, None]).astype(np.uint8)


def draw_puddles(view: View) -> None:
    """Standing water on the ground outdoors while it rains; it mirrors the sky."""
    if view.indoor or view.scene.weather not in ("rain", "storm") or view.scene.site == "underwater":
        return
    canvas, rng = view.canvas, view.rng("puddles")
    top = view.camera.horizon + 0.13
    mirror = mix(view.air, (235, 240, 248), 0.25 if not view.dark else 0.1)
    for px, py, r in rng.uniform(0, 1, (9, 3)):
        x, y = float(px), top + (0.99 - top) * float(py)
        near = (y - view.camera.horizon) / (1 - view.camera.horizon)
        rx = (0.05 + 0.07 * float(r)) * (0.3 + near)
        canvas.ellipse(x, y, rx * 1.06, rx * 0.24, mirror, 0.45, raw=True)
        canvas.ellipse(x, y + 0.003, rx, rx * 0.2, mirror, 0.9, raw=True)
        canvas.ellipse(x - rx * 0.1, y, rx * 0.4, rx * 0.07, mirror, 1.1, raw=True, width=0.004)


def draw_weather(view: View) -> None:
    """Rain, storm and snow in the air; only above the surface where the view is under water."""
    weather = view.scene.weather
    draw_fog(view, near=True)
    if weather not in ("rain", "storm", "snow"):
        return
    canvas, rng = view.canvas, view.rng("weather")
    size = canvas.size
    layer: Array = np.zeros((size, size), np.uint8)
    if weather == "snow":
        for px, py, r in rng.uniform(0, 1, (150, 3)):
            centre = (int(px * size * 16), int(py * size * 16))
            cv2.circle(layer, centre, int((0.0025 + 0.008 * r**3) * size * 16), 255.0, -1, cv2.LINE_AA, 4)
        layer = cv2.GaussianBlur(layer, (0, 0), 0.6)
        strength, colour = 0.95, (246, 248, 252)
    else:
        count, slant, long = (230, 0.55, 0.12) if weather == "storm" else (180, 0.1, 0.085)
        start = rng.uniform(-0.1, 1.05, (count, 2)) * size
        reach = (rng.uniform(0.5, 1.2, count) * long * size)[:, None] * np.array([[slant, 1.0]])
        streaks = np.stack([start, start + reach], 1) * 16
        cv2.polylines(layer, list(streaks.astype(np.int32)), False, 255.0, 1, cv2.LINE_AA, 4)
        # a streak is a pixel wide: on a small picture it covers more
        fine = min(1.0, 0.4 + 0.6 * size / 224)
        strength, colour = (0.5 * fine, (214, 222, 234)) if weather == "storm" else (0.5 * fine, (222, 230, 240))
    if view.surface < 1:
        layer[int(view.surface * size) :] = 0
    level = {"day": 1.0, "dusk": 0.9, "night": 0.5, "lamps": 0.7}[view.scene.light]
    share = (layer * np.float32(strength * level / 255))[:, :, None]
    canvas.img = (canvas.img * (1 - share) + np.asarray(colour, np.float32) * share).astype(np.uint8)


def grade(view: View) -> None:
    """Exposure for the light of the hour, contrast, colour balance, vignette and grain.

    The exposure is set from the picture itself, so that its mean brightness tells the light and
    the weather and nothing else about the scene.
    """
    canvas, rng = view.canvas, view.rng("grade")
    size = canvas.size
    img = canvas.img.astype(np.float32)
    mean = float(img.mean())
    wanted = _EXPOSURE[view.scene.light] * _BRIGHT[view.scene.weather] * float(rng.uniform(0.9, 1.1))
    balance = np.asarray(_GRADE[view.scene.light], np.float32) * rng.uniform(0.97, 1.03, 3).astype(np.float32)
    img *= np.float32(min(max(wanted / max(mean, 1.0), 0.55), 1.9)) * balance
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    img *= (1.05 - 0.42 * (axis[:, None] ** 2 + axis[None, :] ** 2))[:, :, None]
    luma = cv2.transform(img, np.full((1, 3), 1 / 3, np.float32))[:, :, None]
    img = luma + (img - luma) * np.float32(1.16)
    img += (luma - np.float32(wanted)) * np.float32(0.1)
    grain = crop("grain", size, size, float(rng.uniform()), float(rng.uniform()), 255.0)
    img += (grain * np.float32(5.0))[:, :, None]
    # a gentle shoulder, so that highlights roll off instead of clipping
    over = img > 205
    img[over] = 205 + 50 * (1 - np.exp(-(img[over] - 205) / 50))
    canvas.img = np.clip(img, 0, 255).astype(np.uint8)
