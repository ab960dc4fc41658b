"""Readers of published datasets."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType, ModuleType
from typing import Protocol

from embervlm.data.readers import benchmark, cc3m, coco, flickr30k, llava, reasoning, robot_selection, vqa
from embervlm.data.readers.base import Dataset, Files, Rows


class Format(Protocol):
    """What a reader's module has."""

    KIND: str

    def parts(self, dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
        """The files of a dataset, as groups that can be read apart from each other.

        Raises:
            ReaderError: a file that the format needs is not named or not there.
        """

    def read(self, dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
        """The records of one such group, in order.

        Raises:
            ReaderError: a file that is not of this format at all.
        """


#: Every format by name; `KIND` says which stage's records it gives.
FORMATS: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "coco": coco,
        "flickr30k": flickr30k,
        "cc3m": cc3m,
        "llava_instruct": llava,
        "vqa_v2": vqa,
        "ok_vqa": vqa,
        "mme": benchmark,
        "mmbench": benchmark,
        "textvqa": benchmark,
        "scienceqa": benchmark,
        "robot_selection": robot_selection,
        "reasoning": reasoning,
    }
)
