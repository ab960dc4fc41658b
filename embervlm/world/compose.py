"""Scenes on photographs: which get one, from where it is seen, and the camera that takes the whole.

All of it follows from the scene's seed, so the two pictures of a counterfactual pair differ in what decides and in
nothing else.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from PIL import Image

from embervlm.world.album import Window, album, photographs_of, sample_window, view_of
from embervlm.world.ontology import Scene
from embervlm.world.paint import paint
from embervlm.world.paint.canvas import Canvas
from embervlm.world.paint.noise import Array
from embervlm.world.paint.photograph import sample_lens, taken
from embervlm.world.paint.view import make_view
from embervlm.world.panoramas import panoramas, perspective, sample_shot

#: The background of a picture that is painted throughout.
PAINTED = "painted"


def compose(
    scene: Scene, size: int, split: str, share: float, material: str, own: str | None = None, bare: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """A scene's picture as JPEG, and how it came about: background, view and lens.

    Args:
        scene: what to show.
        size: pixels a side.
        split: training looks into other directions of a panorama than validation and test, and at other photographs
            of an album.
        share: probability that a scene stands on a photograph, where one shows its environment.
        material: folder of the panoramas.
        own: folder of an album (`embervlm.world.album`), or None. Where it and the panoramas show an environment,
            every other scene stands on either.
        bare: show the photograph alone, nothing of the scene drawn on it, where there is one (`share` is then not
            asked); what came about says so.

    Raises:
        MaterialError: the panoramas are not there.
        AlbumError: the album cannot be used.
    """
    rng = random.Random(f"{scene.seed}|photograph")
    found = panoramas(material)
    lens = sample_lens(rng)
    seen: dict[str, Any] = {"background": PAINTED}
    photograph: tuple[Array, Array] | None = None
    if rng.random() < share or bare:
        shot = sample_shot(scene, split, make_view(scene, Canvas(16)).camera.horizon, rng)
        window = None if own is None else _window(scene, split, own, rng)
        if window is not None and (shot is None or rng.random() < 0.5):
            seen = window.to_dict()
            # Where its sky is nobody knows; none gives way to a painted one.
            photograph = (
                view_of(album(str(own))[window.photograph].pixels(), window, size),
                np.zeros((size, size), np.float32),
            )
        elif shot is not None:
            seen, photograph = shot.to_dict(), perspective(found[shot.panorama], shot, size)
    if bare and photograph is not None:
        return taken(Image.fromarray(photograph[0]), lens, scene.seed), {**seen, **lens.to_dict(), "bare": True}
    return taken(paint(scene, size, photograph), lens, scene.seed), {**seen, **lens.to_dict()}


def _window(scene: Scene, split: str, own: str, rng: random.Random) -> Window | None:
    """Part of a photograph of an album that shows the scene's environment; None where none does."""
    shown = photographs_of(own, scene.environment, split)
    return sample_window(rng.choice(shown), rng) if shown else None
