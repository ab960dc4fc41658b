"""Readers of published datasets, on files in exactly their form with their oddities (`files/`)."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from embervlm.data.readers import FORMATS
from embervlm.data.readers.base import Dataset, Fault, Found, LocalFiles, ReaderError, Row, picture_key
from embervlm.data.readers.json_stream import walk
from embervlm.data.readers.reasoning import mention
from embervlm.data.readers.shelf import Shelf

FILES = Path(__file__).parent / "files"


def rows(format: str, annotations: str | Path, **fields: Any) -> list[Row]:
    dataset = Dataset("set", format, str(annotations), **{"images": "pictures", "split": "train", **fields})
    reader, files = FORMATS[format], LocalFiles()
    return [row for part in reader.parts(dataset, files) for row in reader.read(dataset, part, files)]


def found(*arguments: Any, **fields: Any) -> list[Found]:
    return [row for row in rows(*arguments, **fields) if isinstance(row, Found)]


def faults(*arguments: Any, **fields: Any) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in rows(*arguments, **fields) if isinstance(row, Fault)]


def pictures(row: Found) -> tuple[str, ...]:
    assert row.picture is not None
    return row.picture.paths


# ------------------------------------------------------------------- COCO


def test_coco_2014_gives_every_caption_to_training() -> None:
    got = found("coco", FILES / "captions_train2014.json")
    assert [row.record.id for row in got] == [
        "set-25-101",
        "set-25-103",
        "set-25-105",
        "set-9-102",
        "set-9-104",
        "set-30-108",
    ]
    assert [row.record.response for row in got][:2] == ["A crane lifts a beam over the yard.", "A yellow crane at work"]
    assert pictures(got[0]) == ("pictures/COCO_train2014_000000000025.jpg",)
    assert {row.record.kind for row in got} == {"caption"}
    assert [reason for _, reason in faults("coco", FILES / "captions_train2014.json")] == [
        "annotations[6]: expected image_id, id and caption, found {'image_id': 30, 'id': 107}",
        "image_id: 77 is not among images",
    ]


def test_coco_2017_gives_a_picture_once_to_validation_with_all_its_captions() -> None:
    got = found("coco", FILES / "captions_val2017.json", split="validation")
    assert [(row.record.id, row.record.response) for row in got] == [
        ("set-139", "A lamp on a desk"),
        ("set-9", "Crates at a wall"),
    ]
    assert got[0].record.tags == {"captions": ["A lamp on a desk", "A desk with a lamp"]}
    assert [row.line for row in got] == [7, 8]


def test_a_coco_picture_is_in_one_split_whatever_its_name() -> None:
    assert picture_key("COCO_train2014_000000000009.jpg") == picture_key("train2017/000000000009.jpg")
    dataset = Dataset("a", "coco", "x", validation=0.3, test=0.3)
    splits = [dataset.split_of(f"coco {i}") for i in range(600)]
    assert splits == [Dataset("b", "vqa_v2", "y", validation=0.3, test=0.3).split_of(f"coco {i}") for i in range(600)]
    assert all(120 < splits.count(split) < 280 for split in ("train", "validation", "test"))


# --------------------------------------------------------------- Flickr30k


def test_flickr30k_token_file() -> None:
    got = found("flickr30k", FILES / "results_20130124.token")
    assert [(row.line, row.record.id, row.record.response) for row in got] == [
        (1, "set-1000092795-0", "Two men in hard hats look at a plan ."),
        (2, "set-1000092795-1", "Two workers with a drawing ."),
        (3, "set-10002456-0", "Several people operate a large pulley system ."),
        (4, "set-10002456-1", 'Men in hard hats are operating a giant "pulley" .'),
    ]
    assert pictures(got[0]) == ("pictures/1000092795.jpg",)
    ((line, reason),) = faults("flickr30k", FILES / "results_20130124.token")
    assert (line, reason[:45]) == (6, "expected name.jpg#number, a tab and the capti")


def test_flickr30k_csv_with_bars_and_the_row_that_lacks_one() -> None:
    got = found("flickr30k", FILES / "results.csv")
    assert [row.record.response for row in got] == [
        'Two men in hard hats look at a "plan" .',
        "Two workers , one | with a drawing .",
        "A dog runs on a field .",
    ]
    ((line, reason),) = faults("flickr30k", FILES / "results.csv")
    assert line == 5
    assert reason.startswith("2 columns where 3 are expected: '2199200615.jpg |  4   A dog runs")


def test_flickr30k_csv_of_lists_knows_its_splits() -> None:
    got = found("flickr30k", FILES / "flickr_annotations_30k.csv", split="auto")
    assert [(row.record.split, row.record.response) for row in got] == [
        ("train", "Two men look at a plan."),
        ("train", 'Two workers, one with a "drawing".'),
        ("validation", "A pulley\nis worked by many."),
        ("test", "A dog runs."),
    ]
    assert got[3].record.tags["captions"] == ["A dog runs.", "A dog on grass."]
    assert [line for line, _ in faults("flickr30k", FILES / "flickr_annotations_30k.csv")] == [5]


def test_flickr30k_csv_of_captions_and_what_is_none(tmp_path: Path) -> None:
    assert [row.record.response for row in found("flickr30k", FILES / "captions.csv")] == [
        "Two men, in hard hats.",
        "Two workers.",
    ]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReaderError, match="begins no Flickr30k annotations"):
        rows("flickr30k", tmp_path / "other.csv")


# -------------------------------------------------------------------- CC3M


def test_cc3m_table() -> None:
    got = found("cc3m", FILES / "Train_GCC-training.tsv")
    assert [row.record.response for row in got] == [
        "a tall crane stands over a building site",
        "a diver inspects the hull of a ship",
        "a robot whose picture is gone",
        "",
        "a picture under its own name",
    ]
    code = zlib.crc32(b"http://example.org/crane.jpg")
    assert pictures(got[0]) == tuple(f"pictures/{n}" for n in (f"0_{code}", f"0_{code}.jpg", f"{code}", f"{code}.jpg"))
    assert pictures(got[4]) == ("pictures/plain/named.png",)
    bad = faults("cc3m", FILES / "Train_GCC-training.tsv")
    assert [line for line, _ in bad] == [3, 7]
    assert bad[1][1].startswith("not UTF-8 text")


def archive(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def test_cc3m_webdataset(tmp_path: Path) -> None:
    facts = json.dumps({"caption": "from the json", "url": "http://example.org/1.jpg", "status": "success"}).encode()
    first = [("000000000.jpg", b"one"), ("000000000.json", facts), ("000000000.txt", b"a crane\n")]
    second = [("000000001.jpg", b"two!"), ("000000001.json", facts), ("000000002.txt", b"no picture")]
    third = [("000000003.png", b"three"), ("000000004.json", b"{"), ("000000004.jpg", b"four")]
    path = archive(tmp_path / "00000.tar", first + second + third)
    got = found("cc3m", tmp_path)
    assert [(row.line, row.record.id, row.record.response) for row in got] == [
        (1, "set-00000-000000000", "a crane"),
        (2, "set-00000-000000001", "from the json"),
    ]
    for row, content in zip(got, (b"one", b"two!"), strict=True):
        assert row.picture is not None
        start, length = row.picture.offset, row.picture.length or 0
        assert path.read_bytes()[start : start + length] == content
    reasons = dict(faults("cc3m", tmp_path))
    assert reasons[3].startswith("image: missing")
    assert reasons[4].startswith("000000003: no caption")
    assert reasons[5].startswith("000000004.json: malformed JSON")


def test_cc3m_archive_that_ends_early(tmp_path: Path) -> None:
    path = archive(tmp_path / "00000.tar", [(f"{i}.{end}", b"x" * 600) for i in range(3) for end in ("jpg", "txt")])
    path.write_bytes(path.read_bytes()[: 512 * 8])
    assert len(found("cc3m", tmp_path)) == 1
    assert "the archive is damaged here" in faults("cc3m", tmp_path)[-1][1]
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(ReaderError, match=r"expected a \.tsv file, or a folder of \.tar"):
        rows("cc3m", tmp_path)


# ------------------------------------------------------------------- LLaVA


def test_llava_takes_placeholders_out_and_turns_apart() -> None:
    got = found("llava_instruct", FILES / "llava_instruct_150k.json")
    assert [(row.record.instruction, row.record.response) for row in got] == [
        ("What stands beside the wall?", "Two crates stand beside the wall."),
        ("How many are there?", "Two."),
        ("Describe the picture in detail.", "A yard in daylight.\n\nTwo wooden crates lean on a wall."),
        ("What is a crane for?", "For lifting."),
        ("", "Yes."),
        ("Where is it?", "Gone."),
    ]
    assert len({row.record.id for row in got}) == len(got)
    assert got[3].picture is None
    assert got[0].line == 2
    assert [
        (line, reason.split(": ")[1]) for line, reason in faults("llava_instruct", FILES / "llava_instruct_150k.json")
    ] == [
        (27, "conversations"),
        (28, "conversations[0].from"),
    ]


# --------------------------------------------------------------------- VQA

V2 = {
    "annotations": FILES / "v2_mscoco_train2014_annotations.json",
    "questions": str(FILES / "v2_OpenEnded_mscoco_train2014_questions.json"),
}
OK = {
    "annotations": FILES / "mscoco_train2014_annotations.json",
    "questions": str(FILES / "OpenEnded_mscoco_train2014_questions.json"),
}


def test_vqa_v2_joins_questions_and_answers_in_any_order() -> None:
    got = found("vqa_v2", **V2)
    assert [(row.record.id, row.record.response, row.record.tags["question_type"]) for row in got] == [
        ("set-9000", "2", "number"),
        ("set-9001", "yes", "yes or no"),
        ("set-25000", "beam", "other"),
    ]
    assert got[0].record.tags["answers"] == ["2"] * 6 + ["two"] * 2 + ["3"] * 2
    assert pictures(got[0]) == (
        "pictures/COCO_train2014_000000000009.jpg",
        "pictures/train2014/COCO_train2014_000000000009.jpg",
        "pictures/000000000009.jpg",
    )
    assert [reason for _, reason in faults("vqa_v2", **V2)] == [
        "annotations[3]: answers: expected a list of answers, found []",
        "questions[3]: question_id: 25001 has no annotation",
        "questions[4]: expected image_id, question and question_id, found "
        "{'image_id': 25, 'question': 12, 'question_id': 25002}",
    ]


def test_ok_vqa_takes_the_commonest_of_ten() -> None:
    got = found("ok_vqa", **OK)
    assert [(row.record.response, row.record.tags["question_type"]) for row in got] == [
        ("diesel", "vehicles and transportation"),
        ("pine", "other"),
    ]
    with pytest.raises(ReaderError, match="questions and annotations are in two files"):
        rows("ok_vqa", OK["annotations"])
    with pytest.raises(ReaderError, match="no questions in it"):
        rows("ok_vqa", OK["annotations"], questions=str(OK["annotations"]))
    with pytest.raises(ReaderError, match="no annotations in it"):
        rows("ok_vqa", OK["questions"], questions=str(OK["questions"]))


# --------------------------------------------------------------- reasoning


def test_reasoning_in_all_its_forms() -> None:
    roof, pipe, boxes = (row.record for row in found("reasoning", FILES / "robot_reasoning.json", images=None))
    assert roof.instruction == "Inspect the roof after the storm."
    assert roof.reasoning[2] == "The [Drone] flies; [Robot with Wheels] stays below."
    assert (roof.labels, len(roof.robots), roof.kind) == (["Drone"], 5, "reasoning")
    assert pipe.reasoning == [
        "Task Analysis Dig, then lift.",
        "Environment Assessment A yard with soil.",
        "Capability Matching [Mole] digs. Lifting [Crane] lifts.",
        "Decision Both go.",
    ]
    assert (pipe.labels, [step["robot"] for step in pipe.plan]) == (["Crane", "Mole"], ["Mole", "Crane"])
    assert (boxes.labels, boxes.instruction) == (["Robot with Wheels"], "Carry boxes over the warehouse floor.")
    assert len(boxes.reasoning) == 4
    beside = [row.picture for row in found("reasoning", FILES / "robot_reasoning.json", images=None)]
    assert [p.paths if p else None for p in beside] == [None, (str(FILES / "000000000009.jpg"),), None]
    bad = faults("reasoning", FILES / "robot_reasoning.json")
    assert [reason.split(": ")[1] for _, reason in bad] == [
        "reasoning_chain",
        "selected_robot",
        "expected an object, found 'no object'",
    ]


def test_a_name_inside_a_word_or_in_brackets_is_no_new_mention() -> None:
    names = ["Robot", "Robot with Legs"]
    assert (
        mention("robot with legs, [Robot], Robotics; the ROBOT", names)
        == "[Robot with Legs], [Robot], Robotics; the [Robot]"
    )


# ------------------------------------------------------- the machinery below


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
def test_json_in_pieces_of_any_size(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embervlm.data.readers.json_stream._PIECE", piece)
    text = (
        '{"info": {"a": [1, 2]}, "n": 12345,\n "one": [{"k": "é\\n"},\n {"k": "bad"x},\n {"k": 3}], '
        '"none": [], "two": [10, 2.5]}'
    )
    got = [(i.key, i.index, i.line, i.value, i.reason is not None) for i in walk(io.BytesIO(text.encode()), "f")]
    assert got == [
        ("info", -1, 1, {"a": [1, 2]}, False),
        ("n", -1, 1, 12345, False),
        ("one", 0, 2, {"k": "é\n"}, False),
        ("one", 1, 3, None, True),
        ("one", 2, 4, {"k": 3}, False),
        ("two", 0, 4, 10, False),
        ("two", 1, 4, 2.5, False),
    ]


def test_a_byte_that_is_no_text_spoils_one_item() -> None:
    got = [(i.line, i.value, i.reason) for i in walk(io.BytesIO(b'[{"a": "x"},\n{"a": "\xff"},\n{"a": "y"}]'), "f")]
    assert [value for _, value, _ in got] == [{"a": "x"}, None, {"a": "y"}]
    assert "not UTF-8" in (got[1][2] or "")


@pytest.mark.parametrize("text", ["", "   ", '"text"', "nothing", '{"a": }', '{"a"', "{1: 2}"])
def test_what_is_no_json_names_the_file(text: str) -> None:
    with pytest.raises(ReaderError, match="file"):
        list(walk(io.BytesIO(text.encode()), "file"))


def test_deep_nesting_is_a_fault_and_no_crash() -> None:
    got = list(walk(io.BytesIO(b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]"), "f"))
    assert got[0].reason is not None


def test_a_shelf_groups_and_joins() -> None:
    with Shelf() as shelf:
        for i, key in enumerate(["b", 7, "b", "a", 7]):
            shelf.put("x", key, i, [i])
        shelf.put("y", "b", 9, None)
        assert [(key, [line for line, _ in rows]) for key, rows in shelf.groups("x")] == [
            ("b", [0, 2]),
            (7, [1, 4]),
            ("a", [3]),
        ]
        assert shelf.get("y", "b") == [(9, None)]
        assert shelf.get("y", "c") == []


def many(folder: Path, format: str, count: int) -> dict[str, Any]:
    """A dataset of so many rows, and the arguments to read it with."""
    file = folder / f"{format}.json"
    if format == "coco":
        images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(count)]
        captions = [{"image_id": i % count, "id": i, "caption": "a crane " * 20} for i in range(2 * count)]
        file.write_text(json.dumps({"images": images, "annotations": captions}))
    elif format == "llava_instruct":
        turns = [{"from": "human", "value": "<image>\nwhat? " * 9}, {"from": "gpt", "value": "a crane " * 20}]
        file.write_text(json.dumps([{"id": i, "image": f"{i}.jpg", "conversations": turns} for i in range(count)]))
    elif format == "vqa_v2":
        answers = [{"answer": "crane", "answer_id": i} for i in range(10)]
        rows = [{"question_id": i, "answer_type": "other", "answers": answers} for i in range(count)]
        file.write_text(json.dumps({"annotations": rows}))
        asked = [{"question_id": i, "image_id": i, "question": "what is it? " * 9} for i in range(count)]
        (folder / "questions.json").write_text(json.dumps({"questions": asked}))
    elif format == "reasoning":
        item = {"reasoning_chain": ["one " * 20, "two", "three", "four"], "selected_robot": "Drone"}
        file.write_text(json.dumps([{**item, "task": f"Inspect roof {i}."} for i in range(count)]))
    else:
        members = [(f"{i}.{end}", b"x" * 700) for i in range(count) for end in ("jpg", "txt")]
        file = archive(folder / "00000.tar", members)
    return {"annotations": file, "questions": str(folder / "questions.json")}


@pytest.mark.parametrize("format", ["coco", "llava_instruct", "vqa_v2", "reasoning", "cc3m"])
def test_memory_does_not_grow_with_the_rows(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embervlm.data.readers.json_stream._PIECE", 4096)
    peaks = []
    for count in (300, 3000):
        arguments = many(tmp_path, format, count)
        dataset = Dataset("set", format, str(arguments["annotations"]), "pictures", arguments["questions"], "train")
        reader, files = FORMATS[format], LocalFiles()
        (part,) = reader.parts(dataset, files)
        tracemalloc.start()
        try:
            total = sum(isinstance(row, Found) for row in reader.read(dataset, part, files))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert total >= count
    assert peaks[1] < 1.5 * peaks[0] + 100_000


# -------------------------------------------------------------- benchmarks


def test_mme_asks_for_yes_and_no_and_tests() -> None:
    got = found("mme", FILES / "MME.tsv", split="auto", images=None)
    assert [(row.line, row.record.id, row.record.response, row.record.split) for row in got] == [
        (2, "set-0", "Yes", "test"),
        (3, "set-1", "No", "test"),
    ]
    assert got[0].record.instruction == "Is the crate red? Please answer yes or no."
    assert {row.record.kind for row in got} == {"instruction"}
    assert [row.record.tags for row in got] == [{"question_type": "color"}] * 2
    assert faults("mme", FILES / "MME.tsv") == [(4, "answer: none is given")]


def test_mmbench_has_options_cells_in_quotes_and_pictures_of_other_rows() -> None:
    got = found("mmbench", FILES / "MMBench_DEV_EN.tsv")
    assert got[0].record.instruction.split("\n") == [
        "The picture was taken",
        "in a\tworkshop.",
        'Which "tool" is shown?',
        "A. a saw",
        "B. a drill",
        "Answer with the letter.",
    ]
    assert [(row.line, row.record.response, row.record.tags["option"]) for row in got] == [
        (2, "B", "a drill"),
        (4, "A", "a drill"),
    ]
    assert got[1].record.instruction.startswith('Which "tool" is shown?\nA. a drill')
    assert got[0].picture == got[1].picture
    assert faults("mmbench", FILES / "MMBench_DEV_EN.tsv") == [
        (5, "answer: 'D' is none of the options A, B, C"),
        (6, "image: '999' is the index of no row before this one that has a picture"),
    ]


def test_textvqa_answer_is_the_commonest_of_ten() -> None:
    (row,) = found("textvqa", FILES / "TextVQA_VAL.tsv")
    assert row.record.response == "dakota"
    assert row.record.tags["answers"].count("dakota") == 8
    assert len(row.record.tags["answers"]) == 10
    assert faults("textvqa", FILES / "TextVQA_VAL.tsv") == [(3, 'answer: begins a list and is none: "[\'open"')]


def test_scienceqa_has_questions_without_a_picture() -> None:
    seen, unseen = found("scienceqa", FILES / "ScienceQA_TEST.tsv")
    assert (seen.record.response, seen.record.tags["question_type"]) == ("A", "physics")
    assert "C." not in seen.record.instruction
    assert unseen.picture is None
    assert unseen.record.instruction.startswith("Look at the table.\nWhich is liquid?\nA. ice\nB. water")


@pytest.mark.parametrize("name", ["MME.tsv", "MMBench_DEV_EN.tsv", "TextVQA_VAL.tsv", "ScienceQA_TEST.tsv"])
def test_a_benchmarks_picture_lies_where_its_row_says(name: str) -> None:
    content = (FILES / name).read_bytes()
    for row in found("mme", FILES / name):
        if row.picture is not None:
            assert (row.picture.paths, row.picture.encoding) == ((str(FILES / name),), "base64")
            assert row.picture.length is not None
            cell = content[row.picture.offset : row.picture.offset + row.picture.length]
            assert base64.b64decode(cell, validate=True).startswith(b"\x89PNG")


def test_a_table_that_is_no_benchmark_or_is_cut(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("caption\turl\n")
    with pytest.raises(ReaderError, match="expected the columns index, question, answer and image"):
        rows("mme", tmp_path / "other.tsv")
    head = "index\tquestion\tanswer\timage_path\n"
    (tmp_path / "cut.tsv").write_text(f'{head}1\tred?\tYes\ta.png\n2\tblue?\tNo\n3\t"never closed\tNo\tb.png\n')
    (row,) = found("mme", tmp_path / "cut.tsv")
    assert pictures(row) == ("pictures/a.png",)
    assert faults("mme", tmp_path / "cut.tsv") == [
        (3, "3 columns where 4 are expected"),
        (4, "a cell's quote is not closed"),
    ]
