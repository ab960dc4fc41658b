"""VQA-v2 and OK-VQA: a file of questions, a file of annotations with ten answers each, a folder of COCO pictures.

    questions:   {"data_subtype": "train2014", "questions": [{"image_id", "question", "question_id"}, …], …}
    annotations: {"data_subtype": "train2014", "annotations": [{"question_id", "image_id", "question_type",
                  "answer_type", "multiple_choice_answer" (VQA-v2 only), "answers": [{"answer", …} × 10]}, …]}

The answer is the annotators' commonest (`multiple_choice_answer`, where there is one); all ten are in the tag
`answers`, by which the VQA accuracy is counted. The tag `question_type` is VQA-v2's answer type (yes/no, number,
other) and OK-VQA's category of knowledge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from embervlm.data.readers.base import Dataset, Fault, Files, Found, Picture, ReaderError, Rows, brief
from embervlm.data.readers.json_stream import walk
from embervlm.data.readers.shelf import Shelf
from embervlm.data.schema import Record

KIND = "instruction"


def parts(dataset: Dataset, files: Files) -> list[tuple[str, ...]]:
    """Questions and annotations, read together.

    Raises:
        ReaderError: the dataset has no file of questions.
    """
    if not dataset.questions:
        raise ReaderError(f"{dataset.name}: questions and annotations are in two files; give both")
    return [(dataset.questions, dataset.annotations)]


def read(dataset: Dataset, part: Sequence[str], files: Files) -> Rows:
    """Records of a file of questions and one of annotations, joined by question_id.

    Raises:
        ReaderError: a file of another kind.
    """
    questions, annotations = part
    with Shelf() as shelf:
        facts = yield from _annotations(dataset, annotations, files, shelf)
        asked = 0
        with files.open(questions) as opened:
            for item in walk(opened, questions):
                if item.key != "questions" or item.index < 0:
                    continue
                asked += 1
                identity = f"{dataset.name}-question-{item.index}"
                if item.reason is not None:
                    yield Fault(questions, item.line, f"questions[{item.index}]: {item.reason}", identity)
                    continue
                try:
                    yield _joined(dataset, (questions, item.line), item.value, shelf, facts)
                except ReaderError as error:
                    yield Fault(questions, item.line, f"questions[{item.index}]: {error}", identity)
    if not asked:
        raise ReaderError(f"{questions}: no questions in it; expected a VQA questions JSON")


def _annotations(dataset: Dataset, file: str, files: Files, shelf: Shelf) -> Any:
    """Put every annotation on the shelf; returns the other values at the file's top."""
    facts: dict[str, Any] = {}
    count = 0
    with files.open(file) as opened:
        for item in walk(opened, file):
            if item.index < 0:
                facts[item.key] = item.value
            if item.key != "annotations" or item.index < 0:
                continue
            count += 1
            row, place = item.value, f"annotations[{item.index}]"
            reason = item.reason or _fault_of(row)
            if reason:
                yield Fault(file, item.line, f"{place}: {reason}", f"{dataset.name}-{place}")
                continue
            answers = [answer["answer"] for answer in row["answers"]]
            kinds = {name: row.get(name) for name in ("question_type", "answer_type", "multiple_choice_answer")}
            shelf.put("answers", row["question_id"], item.line, {**kinds, "answers": answers})
    if not count:
        raise ReaderError(f"{file}: no annotations in it; expected a VQA annotations JSON")
    return facts


def _fault_of(row: Any) -> str | None:
    if not isinstance(row, dict) or "question_id" not in row:
        return f"expected question_id and answers, found {brief(row)}"
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers:
        return f"answers: expected a list of answers, found {brief(answers)}"
    for i, answer in enumerate(answers):
        if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
            return f"answers[{i}]: expected an object with a text answer, found {brief(answer)}"
    return None


def _joined(dataset: Dataset, place: tuple[str, int], row: Any, shelf: Shelf, facts: dict[str, Any]) -> Found:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise ReaderError(f"expected image_id, question and question_id, found {brief(row)}")
    number, image = row.get("question_id"), row.get("image_id")
    if not isinstance(image, int):
        raise ReaderError(f"image_id: expected a whole number, found {brief(image)}")
    annotated = shelf.get("answers", number)
    if not annotated:
        raise ReaderError(f"question_id: {number} has no annotation")
    answers = annotated[0][1]
    picture = _picture(dataset, image, facts)
    record = Record(
        id=f"{dataset.name}-{number}",
        source=dataset.name,
        kind=KIND,
        split=dataset.split_of(f"coco {image}"),
        image=None,
        instruction=row["question"].strip(),
        response=_answer(answers),
        tags={"question_type": _type(answers, facts), "answers": answers["answers"]},
    )
    return Found(record, place[0], place[1], picture)


def _picture(dataset: Dataset, image: int, facts: dict[str, Any]) -> Picture:
    """Under the name of 2014, in `images` or in its folder of that name, or under that of 2017."""
    subset = facts.get("data_subtype")
    names = [f"{image:012d}.jpg"]
    if isinstance(subset, str):
        old = f"COCO_{subset}_{image:012d}.jpg"
        names = [old, f"{subset}/{old}", *names]
    return dataset.picture(*names)


def _answer(row: dict[str, Any]) -> str:
    chosen = row["multiple_choice_answer"]
    if isinstance(chosen, str):
        return chosen.strip()
    counts = Counter(answer.strip() for answer in row["answers"] if answer.strip())
    # Of answers as common as each other, the first given.
    return max(counts, key=lambda text: counts[text]) if counts else ""


def _type(row: dict[str, Any], facts: dict[str, Any]) -> str:
    """Words only, as a metric's name may have."""
    names = facts.get("question_types")
    kind = names.get(row["question_type"]) if isinstance(names, dict) else None
    text = str(kind or row["answer_type"] or "other").lower().replace("/", " or ")
    return " ".join(re.findall(r"[a-z0-9]+", text))
