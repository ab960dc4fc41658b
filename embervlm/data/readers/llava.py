"""LLaVA-Instruct: `llava_instruct_150k.json` and its parts, a JSON list of conversations about COCO pictures.

    {"id": "000000033471", "image": "000000033471.jpg", "conversations": [
       {"from": "human", "value": "<image>\\nWhat are the colors of the bus?"},
       {"from": "gpt", "value": "White and red."}, …]}

Each question with its answer is a record; earlier turns are not repeated in later ones. `<image>` is a placeholder
for the picture and is taken out wherever it stands. The same `id` comes several times, so records are named after
their place. Conversations without a picture are text only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from embervlm.data.readers.base import Dataset, Fault, Files, Found, ReaderError, Rows, brief, need_text, picture_key
from embervlm.data.readers.json_stream import Item, walk
from embervlm.data.schema import Record

KIND = "instruction"
_PLACEHOLDER = re.compile(r"\s*<image>\s*")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """The JSON file."""
    return [(dataset.annotations,)]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a file of conversations.

    Raises:
        ReaderError: no JSON list at the top.
    """
    (file,) = part
    with files.open(file) as opened:
        for item in walk(opened, file):
            if item.key:
                raise ReaderError(f"{file}: expected a JSON list of conversations at the top, found a mapping")
            identity = f"{dataset.name}-{item.index:07d}"
            if item.reason is not None:
                yield Fault(file, item.line, f"item {item.index}: {item.reason}", identity)
                continue
            try:
                yield from _turns(dataset, file, item, identity)
            except ReaderError as error:
                yield Fault(file, item.line, f"item {item.index}: {error}", identity)


def _turns(dataset: Dataset, file: str, item: Item, identity: str) -> list[Found]:
    row = item.value
    if not isinstance(row, dict):
        raise ReaderError(f"expected an object, found {brief(row)}")
    talk = row.get("conversations")
    if not isinstance(talk, list) or not talk:
        raise ReaderError(f"conversations: expected a list of turns, found {brief(talk)}")
    if len(talk) % 2:
        raise ReaderError(f"conversations: {len(talk)} turns; expected a question and an answer in turn")
    name = row.get("image")
    picture = None if name is None else dataset.picture(need_text(name, "image"))
    split = dataset.split_of(picture_key(str(name)) if picture else f"item {row.get('id', item.index)}")
    found = []
    for number in range(0, len(talk), 2):
        question = _said(talk[number], f"conversations[{number}]", _ASKS)
        answer = _said(talk[number + 1], f"conversations[{number + 1}]", _ANSWERS)
        record = Record(
            id=f"{identity}-{number // 2}",
            source=dataset.name,
            kind=KIND,
            split=split,
            image=None,
            instruction=_PLACEHOLDER.sub(" ", question).strip(),
            response=_PLACEHOLDER.sub(" ", answer).strip(),
            tags={"conversation": str(row.get("id", item.index)), "turn": number // 2},
        )
        found.append(Found(record, file, item.line, picture))
    return found


def _said(turn: Any, name: str, speakers: tuple[str, ...]) -> str:
    if not isinstance(turn, dict) or turn.get("from") not in speakers:
        speaker = turn.get("from") if isinstance(turn, dict) else turn
        raise ReaderError(f"{name}.from: expected {' or '.join(speakers)}, found {brief(speaker)}")
    return need_text(turn.get("value"), f"{name}.value")
