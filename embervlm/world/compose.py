"""Scenes on photographs: which get one, from where it is seen, and the camera that takes the whole.

All of it follows from the scene's seed, so the two pictures of a counterfactual pair differ in what decides and in
nothing else.
"""

from __future__ import annotations

import random
from typing import Any

from embervlm.world.ontology import Scene
from embervlm.world.paint import paint
from embervlm.world.paint.canvas import Canvas
from embervlm.world.paint.photograph import sample_lens, taken
from embervlm.world.paint.view import make_view
from embervlm.world.panoramas import Shot, panoramas, sample_shot

#: The background of a picture that is painted throughout.
PAINTED = "painted"


def compose(scene: Scene, size: int, split: str, share: float, material: str) -> tuple[bytes, dict[str, Any]]:
    """A scene's picture as JPEG, and how it came about: background, view and lens.

    Args:
        scene: what to show.
        size: pixels a side.
        split: training looks into other directions of a panorama than validation and test.
        share: probability that a scene stands on a photograph, where a panorama shows its environment.
        material: folder of the panoramas.

    Raises:
        MaterialError: the panoramas are not there.
    """
    rng = random.Random(f"{scene.seed}|photograph")
    found = panoramas(material)
    lens = sample_lens(rng)
    shot: Shot | None = None
    if rng.random() < share:
        shot = sample_shot(scene, split, make_view(scene, Canvas(16)).camera.horizon, rng)
    picture = paint(scene, size, None if shot is None else (found[shot.panorama], shot))
    seen = {"background": PAINTED} if shot is None else shot.to_dict()
    return taken(picture, lens, scene.seed), {**seen, **lens.to_dict()}
