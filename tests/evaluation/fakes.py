"""A model that the evaluation can ask, and records it can be asked about, with answers known by construction."""

from __future__ import annotations

from typing import Any

import numpy as np

from embervlm.data.schema import Record

NAMES = ("Crawler", "Flyer", "Diver", "Walker")
#: What a picture's first byte shows, and which robot it calls for.
SCENES = {b"g": "Crawler", b"a": "Flyer", b"w": "Diver", b"s": "Walker"}
PAIRED = list(SCENES)


def robot(name: str, ability: str) -> dict[str, Any]:
    return {"name": name, "capabilities": [ability], "limitations": [], "environments": []}


FLEET = [robot("Crawler", "ground"), robot("Flyer", "air"), robot("Diver", "water"), robot("Walker", "stairs")]


def chain(name: str) -> list[str]:
    return ["the task is to look.", "the place asks for it.", f"[{name}] fits.", f"send [{name}]."]


def selection_records(
    count: int = 32, kind: str = "selection", split: str = "test", image: bool = True
) -> list[Record]:
    """Pairs of twins: the same words over two scenes; the picture alone says who can do it."""
    records = []
    for i in range(count):
        scene = PAIRED[(i % 2) + 2 * ((i // 2) % 2)]
        name = SCENES[scene]
        fleet = FLEET[i % 4 :] + FLEET[: i % 4]
        records.append(
            Record(
                id=f"{split}-{i}",
                source="test",
                kind=kind,
                split=split,
                image=scene + bytes([i]) if image else None,
                instruction=f"look at thing {i // 2}",
                response=name,
                reasoning=chain(name),
                robots=fleet,
                labels=[name],
                plan=[
                    {"order": 1, "subtask": "go there", "robot": name},
                    {"order": 2, "subtask": "look at it", "robot": name},
                ],
                tags={"pair": i // 2, "needs_image": True, "wording_unseen": i % 4 < 2, "robots_unseen": i % 8 < 4},
            )
        )
    return records


class FakeModel:
    """Sees the picture perfectly and is lost without one; believes its chain where `follows` is set."""

    def __init__(self, follows: bool = True, shy: float = 0.9) -> None:
        self.processor: Any = None
        self.follows, self.shy = follows, shy
        self.calls: list[tuple[int, bool]] = []

    def select_many(
        self, requests: list[dict[str, Any]], reasoning: bool = False, batch_size: int = 64
    ) -> list[dict[str, Any]]:
        self.calls.append((len(requests), reasoning))
        return [self._answer(r, reasoning) for r in requests]

    def _answer(self, request: dict[str, Any], reasoning: bool) -> dict[str, Any]:
        names = [r["name"] for r in request["fleet"]]
        seen = SCENES.get(request["image"][:1]) if request["image"] else None
        best = seen or "Crawler"
        steps: list[str] = []
        if reasoning:
            steps = list(request.get("reasoning_text") or chain(best))
            said = [n for n in names if f"[{n}]" in steps[-1]]
            best = said[0] if self.follows and said else best
        confidence = [self.shy if n == best else 0.1 for n in names]
        order = sorted(range(len(names)), key=lambda i: -confidence[i])
        plan = [
            {"order": 1, "subtask": "go there", "robot": best},
            {"order": 2, "subtask": "look at it", "robot": best},
        ]
        return {
            "robots": [{"robot": names[i], "confidence": confidence[i]} for i in order],
            "team": [best],
            "plan": plan if reasoning else [],
            "reasoning": "\n".join(steps),
            "steps": steps,
            "scores": np.log(np.array(confidence) / (1 - np.array(confidence))),
        }

    def encode_images(self, images: list[Any], batch_size: int = 64) -> np.ndarray:
        return np.eye(128)[[image[1] for image in images]]

    def encode_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
        return np.eye(128)[[int(text.split()[-1]) for text in texts]]

    def generate_texts(
        self, requests: list[dict[str, Any]], max_new_tokens: int = 48, batch_size: int = 64
    ) -> list[str]:
        return [f"a picture of number {r['image'][1]}" if r["image"] else "nothing" for r in requests]
