"""The external test of the eyes: crops of the panoramas that nothing is trained or validated on, with their labels."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from PIL import Image

from embervlm.world.labels import LABELS
from embervlm.world.panoramas import HELD_OUT, HELD_OUT_PLACES, Place, Shot, panoramas, perspective

#: The pictures for whose place EmberWorld has no name.
UNNAMED = "unnamed.csv"
_COLUMNS = ("file", "environment", "near", "panorama", "yaw", "pitch", "field_of_view")


def write_photos(material: str | Path, folder: str | Path, count: int = 24, size: int = 224) -> tuple[int, int]:
    """Write crops of the held-out panoramas and `labels.csv` (file, environment, and how each was taken).

    Args:
        material: folder of the installed panoramas.
        folder: where pictures and labels go.
        count: crops of each place, evenly around what the panorama has of it; the same arguments give the same bytes.
        size: pixels a side.

    Returns:
        How many have the name of an environment, and how many have none (those are in `unnamed.csv`).

    Raises:
        MaterialError: the panoramas are not there.
    """
    named = {place.panorama for place in HELD_OUT_PLACES}
    others = [Place(name, "") for name in HELD_OUT if name not in named]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for file, places in ((LABELS, list(HELD_OUT_PLACES)), (UNNAMED, others)):
        rows = [row for place in places for row in _crops(str(material), target, place, count, size)]
        with (target / file).open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        written.append(len(rows))
    return written[0], written[1]


def _crops(material: str, folder: Path, place: Place, count: int, size: int) -> list[dict[str, str]]:
    panorama = panoramas(material)[place.panorama]
    rng = random.Random(f"{place.panorama}|{place.low}")
    rows = []
    for i in range(count):
        shot = Shot(
            place.panorama,
            round(place.low + (place.high - place.low) * (i + rng.random()) / count, 1),
            round(rng.uniform(-9, 9), 1),
            round(rng.uniform(60, 92), 1),
        )
        pixels, _ = perspective(panorama, shot, size)
        name = f"{place.panorama}-{place.environment or 'unnamed'}-{i:03d}.jpg".replace(" ", "-")
        Image.fromarray(pixels).save(folder / name, "JPEG", quality=92)
        rows.append(
            {
                "file": name,
                "environment": place.environment,
                "near": "yes" if place.near else "no",
                "panorama": place.panorama,
                "yaw": f"{shot.yaw:g}",
                "pitch": f"{shot.pitch:g}",
                "field_of_view": f"{shot.field_of_view:g}",
            }
        )
    return rows
