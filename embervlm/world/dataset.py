"""EmberWorld as records: what every stage trains on and is tested on.

Record i is a pure function of (seed, split, kind, i), so shards can be made anywhere in any order and come out
byte-identical. Records i and i^1 may be a pair: one task text and fleet, two scenes, two answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from embervlm.data.prompts import UNKNOWN_TASK
from embervlm.data.schema import KINDS as RECORD_KINDS
from embervlm.data.schema import SPLITS, Record
from embervlm.world.chains import chain, plan, ranked
from embervlm.world.fleets import DEFAULT, POOL_SIZE, KnownFleet, pool
from embervlm.world.ontology import Scene
from embervlm.world.oracle import judge, requirements
from embervlm.world.questions import caption, question
from embervlm.world.tasks import Task, sample_task

SOURCE = "emberworld"
#: The share of selection records that come in counterfactual pairs.
PAIR_SHARE = {"train": 0.35, "validation": 0.5, "test": 0.5}
DEFAULT_SHARE = 0.3
#: Raised whenever the same arguments would make other records.
GENERATOR_VERSION = 4
#: The kinds of records whose pictures may show the place alone.
BARE_KINDS = ("selection", "reasoning")
#: How far away the record is whose analysis a chain with a bare picture begins with.
_FAR = 1_000_003


def build(
    split: str,
    kind: str,
    count: int,
    seed: int,
    image_size: int = 224,
    start: int = 0,
    images: bool = True,
    fleets: int = POOL_SIZE,
    photographs: float = 0.0,
    material: str | None = None,
    own: str | None = None,
    bare: float = 0.0,
) -> Iterator[Record]:
    """Records `start` … `start + count - 1` of a split.

    Args:
        split: "train", "validation" or "test".
        kind: "caption", "instruction", "selection" or "reasoning".
        count: how many.
        seed: the data set's seed.
        image_size: pixels of a side of the picture.
        start: index of the first.
        images: False leaves `image` None, which is fast.
        fleets: random fleets in the split's pool (each of four to eight robots).
        photographs: share, 0 to 1, of the scenes in an environment that a panorama shows that stand on a photograph.
            Above 0, every picture goes through a camera, and `tags["picture"]` says which and what is behind.
        material: the folder of the panoramas (`embervlm.world.material`), needed where `photographs` is above 0.
        own: a folder of photographs (`embervlm.world.album`) that scenes may stand on as well, or None.
        bare: share, 0 to 1, of the training split's selection and reasoning records whose picture is a photograph of
            the place alone, where one shows it. What is done there is then not to be seen, and every other of them
            does not say it either: their chain begins with another scene's analysis, so that only the picture
            tells the place (`tags["picture"]["bare"]`).

    Raises:
        ValueError: an unknown split or kind, a negative number, or no material where it is needed.
    """
    if split not in SPLITS:
        raise ValueError(f"split: unknown {split!r}; known are {', '.join(SPLITS)}")
    if kind not in RECORD_KINDS:
        raise ValueError(f"kind: unknown {kind!r}; known are {', '.join(RECORD_KINDS)}")
    if count < 0 or start < 0 or image_size < 16:
        raise ValueError(f"count {count} and start {start} must not be negative, image_size {image_size} at least 16")
    if not 0 <= photographs <= 1:
        raise ValueError(f"photographs: {photographs} is no share from 0 to 1")
    if not 0 <= bare <= 1 or (bare and not photographs):
        raise ValueError(f"bare: {bare} is no share from 0 to 1, or photographs is 0")
    if photographs and material is None:
        raise ValueError("material: the folder of the panoramas is needed for photographs; `make material` installs it")
    size = image_size if images else 0
    backgrounds = (photographs, material or "", own)
    alone = bare if split == "train" and kind in BARE_KINDS else 0.0
    return _records(split, kind, range(start, start + count), seed, size, fleets, backgrounds, alone)


def _records(
    split: str,
    kind: str,
    indices: range,
    seed: int,
    size: int,
    fleets: int,
    backgrounds: tuple[float, str, str | None],
    bare: float,
) -> Iterator[Record]:
    for i in indices:
        if kind == "caption":
            record, scene = _caption(split, i, seed)
        elif kind == "instruction":
            record, scene = _instruction(split, i, seed)
        else:
            record, scene = _selection(split, kind, i, seed, fleets)
        if size and backgrounds[0]:
            alone = bool(bare) and _rng(seed, split, kind, f"bare {i}").random() < bare
            record.image, record.tags["picture"] = _photographed(scene, size, split, *backgrounds, alone)
            if record.tags["picture"].get("bare"):
                other, _ = _selection(split, kind, i + _FAR, seed, fleets)
                record.reasoning = [other.reasoning[0], *record.reasoning[1:]]
                if _rng(seed, split, kind, f"silent {i}").random() < 0.5:
                    record.instruction = UNKNOWN_TASK
        elif size:
            record.image = _picture(scene, size)
        yield record


def _picture(scene: Scene, size: int) -> bytes:
    # Imported here, so that texts can be made without the renderer and its libraries.
    from embervlm.world.paint import paint_bytes

    return paint_bytes(scene, size)


def _photographed(
    scene: Scene, size: int, split: str, share: float, material: str, own: str | None, bare: bool
) -> tuple[bytes, dict[str, Any]]:
    """The picture of a scene in a data set with photographs, and how it was made."""
    from embervlm.world.compose import compose

    return compose(scene, size, split, share, material, own, bare)


def _rng(seed: int, split: str, kind: str, i: int | str) -> random.Random:
    return random.Random(f"{seed}|{split}|{kind}|{i}")


def _record(split: str, kind: str, i: int, seed: int, scene: Scene, **values: Any) -> Record:
    tags = {"scene": scene_tags(scene), **values.pop("tags")}
    return Record(
        id=f"{SOURCE}-{seed}-{split}-{kind}-{i:07d}",
        source=SOURCE,
        kind=kind,
        split=split,
        image=None,
        tags=tags,
        **values,
    )


def scene_tags(scene: Scene) -> dict[str, str]:
    """The ground truth of a picture, for probes, vision warm-up and evaluation."""
    return {
        "environment": scene.environment,
        "weather": scene.weather,
        "light": scene.light,
        "terrain": scene.terrain,
        "access": scene.access,
        "site": scene.site,
        "hazard": scene.hazard,
        "kind": scene.target.kind,
        "color": scene.target.color,
        "size": scene.target.size,
    }


def _caption(split: str, i: int, seed: int) -> tuple[Record, Scene]:
    from embervlm.world.scenes import sample_scene

    rng = _rng(seed, split, "caption", i)
    scene = sample_scene(rng)
    unseen = split == "test" and rng.random() < 0.5
    text = caption(rng, scene, unseen)
    tags = {"wording_unseen": unseen}
    return _record(split, "caption", i, seed, scene, instruction="", response=text, tags=tags), scene


def _instruction(split: str, i: int, seed: int) -> tuple[Record, Scene]:
    rng = _rng(seed, split, "instruction", i)
    unseen = split == "test" and rng.random() < 0.5
    asked = question(rng, unseen)
    tags = {"wording_unseen": unseen, "question_type": asked.kind}
    record = _record(
        split, "instruction", i, seed, asked.scene, instruction=asked.question, response=asked.answer, tags=tags
    )
    return record, asked.scene


def _selection(split: str, kind: str, i: int, seed: int, fleets: int) -> tuple[Record, Scene]:
    couple = _rng(seed, split, kind, f"pair {i >> 1}")
    paired = couple.random() < PAIR_SHARE[split]
    rng = couple if paired else _rng(seed, split, kind, i)
    fleet = DEFAULT if rng.random() < DEFAULT_SHARE else rng.choice(pool(seed, split, fleets))
    unseen = split == "test" and rng.random() < 0.5
    first, twin = sample_task(rng, fleet, split, unseen, paired)
    task = twin if twin is not None and i & 1 else first
    pair = f"{seed}-{split}-{kind}-{i >> 1}" if paired else None
    return _task_record(split, kind, i, seed, fleet, task, pair), task.scene


def _task_record(split: str, kind: str, i: int, seed: int, fleet: KnownFleet, task: Task, pair: str | None) -> Record:
    order = list(fleet.robots)
    if not fleet.default:
        # The order decides nothing; it must not be learnable either. A pair keeps it.
        _rng(seed, split, kind, f"order {pair or i}").shuffle(order)
    profiles = {known.robot.name: known.profile for known in order}
    best = ranked(profiles, task.scene, task.need)
    steps = chain(_rng(seed, split, kind, f"chain {i}"), profiles, task.scene, task.need)
    tags: dict[str, Any] = {
        "wording_unseen": task.text.unseen,
        "robots_unseen": fleet.unseen,
        "needs_image": task.needs_image,
        "category": task.need.category,
        "fleet": fleet.key,
        "needs": list(requirements(task.scene, task.need)),
        "lacks": judge(profiles, task.scene, task.need),
    }
    if pair is not None:
        tags["pair"] = pair
    return _record(
        split,
        kind,
        i,
        seed,
        task.scene,
        instruction=task.text.text,
        response=steps[-1],
        reasoning=steps,
        robots=[known.robot.to_dict() for known in order],
        labels=[name for name in profiles if name in best],
        plan=plan(profiles, task.scene, task.need),
        tags=tags,
    )


def corpus(seed: int, count: int) -> Iterator[str]:
    """Texts of every kind from the training split, for a tokenizer: about `count` records' worth."""
    share = max(1, count // 4)
    for kind in ("caption", "instruction", "reasoning"):
        for record in build("train", kind, share if kind != "reasoning" else 2 * share, seed, images=False):
            yield from (text for text in (record.instruction, record.response, *record.reasoning) if text)
            yield from (step["subtask"] for step in record.plan)
            for robot in record.robots:
                yield robot["name"]
                yield from (text for key in ("capabilities", "limitations", "environments") for text in robot[key])
