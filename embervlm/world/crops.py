"""Crops of the training panoramas as records: photographs that the encoder sees in its warm-up, with plain captions.

They have no scene graph, so the warm-up learns from them only where it has a teacher. Record i is a pure function of
(seed, split, i). Training looks into three quarters of a panorama, validation and test into the rest of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from PIL import Image

from embervlm.data.schema import SPLITS, Record
from embervlm.world.material import SKIES
from embervlm.world.paint.photograph import sample_lens, taken
from embervlm.world.panoramas import HELD_OUT, KEPT_BACK, Shot, panoramas, perspective

SOURCE = "panoramas"
#: Raised whenever the same arguments would make other records.
GENERATOR_VERSION = 1
#: What each panorama shows.
CAPTIONS: dict[str, tuple[str, ...]] = {
    "apartment": ("an empty room of a flat", "a bare living room with a window"),
    "city": ("a wide street in a city", "a square in a city with tall buildings"),
    "dawn": ("bare rocky hills at dawn", "a stony hilltop before sunrise"),
    "forest": ("a forest of tall trees", "trees on a forest slope"),
    "hall": ("a large empty hall", "a ballroom with a tiled floor"),
    "lobby": ("a lobby with benches", "the entrance hall of a public building"),
    "park": ("a green meadow under a blue sky", "an open field of grass"),
    "sky": ("clouds over still water", "a cloudy sky above the sea"),
    "studio": ("a photographer's studio", "a studio with lamps and a white backdrop"),
    "sunrise": ("a field at sunrise", "a meadow with the sun low above it"),
    "warehouse": ("an empty warehouse", "the inside of an empty storage hall"),
}
#: Panoramas that may be trained on.
TRAINED = tuple(sorted(set(SKIES) - set(HELD_OUT)))


def build(split: str, count: int, seed: int, size: int, material: str, start: int = 0) -> Iterator[Record]:
    """Records `start` … `start + count - 1` of a split; their kind is caption.

    Raises:
        ValueError: an unknown split, a negative number, or no material in the folder.
    """
    return (_record(split, i, seed, size, material) for i in numbers(split, count, start))


def numbers(split: str, count: int, start: int) -> range:
    """The numbers of the records that are asked for.

    Raises:
        ValueError: an unknown split or a negative number.
    """
    if split not in SPLITS:
        raise ValueError(f"split: unknown {split!r}; known are {', '.join(SPLITS)}")
    if count < 0 or start < 0:
        raise ValueError(f"count {count} and start {start} must not be negative")
    return range(start, start + count)


def _record(split: str, i: int, seed: int, size: int, material: str) -> Record:
    rng = random.Random(f"{seed}|{split}|{SOURCE}|{i}")
    name = TRAINED[i % len(TRAINED)]
    shot, lens = sample_crop(name, split, rng), sample_lens(rng)
    pixels, _ = perspective(panoramas(material)[name], shot, size)
    return Record(
        id=f"{SOURCE}-{seed}-{split}-{i:07d}",
        source=SOURCE,
        kind="caption",
        split=split,
        image=taken(Image.fromarray(pixels), lens, rng.getrandbits(31)),
        instruction="",
        response=rng.choice(CAPTIONS[name]),
        tags={"picture": {**shot.to_dict(), **lens.to_dict()}},
    )


def sample_crop(name: str, split: str, rng: random.Random) -> Shot:
    """A camera in a panorama; validation and test look into the last quarter of the circle, training elsewhere."""
    low, share = (0.0, 1 - KEPT_BACK) if split == "train" else (1 - KEPT_BACK, KEPT_BACK)
    return Shot(
        name,
        round(-180 + 360 * (low + share * rng.random()), 1),
        round(rng.uniform(-18, 18), 1),
        round(rng.uniform(50, 100), 1),
        round(rng.uniform(1.1, 2.4), 2),
    )
