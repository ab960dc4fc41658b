"""The page: it says what the ledger holds, whole or half full, and needs nothing beside it."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ember_platform.tuning import analysis
from ember_platform.tuning.dashboard import content, load_board, server, write_page
from ember_platform.tuning.ledger import FAILED, PACE, RUNNING, STOPPED, Ledger, LedgerError, Record
from tests.platform.tuning.samples import params, record, sweep

TWO = [{"metric": "first_choice", "mode": "max"}, {"metric": "ece", "mode": "min"}]


def trials() -> list[Record]:
    """Twelve trials: good where the learning rate is high; some stopped, one failed, one running."""
    found = []
    for number in range(12):
        rate = 10 ** (-4 + 3 * (number * 5 % 12) / 11)
        top = 0.2 + 0.05 * (number * 5 % 12)
        values = [top * share for share in (0.5, 0.8, 0.9, 1.0)]
        chosen = params(rate, None if number % 3 else 0.1, 8 if number % 2 else 16)
        if number % 4 == 1:
            found.append(record(number, values[:1], STOPPED, params=chosen, reason="below the cut"))
        else:
            figures = {"first_choice": values[-1], "ece": 0.1 - 0.01 * (number % 5)}
            found.append(record(number, values, params=chosen, figures=figures, run=f"run{number}"))
    found[10] = record(10, [], FAILED, params=found[10].params, fault="diverged", reason="<b>not</b> a number")
    found[11] = record(11, [0.3], RUNNING, params=found[11].params)
    return found


def write(folder: Path, records: list[Record], tracking: str = "sqlite:///x.db", **changes: Any) -> str:
    ledger = Ledger(str(folder / "sweep"))
    made = sweep(trials=12, **changes)
    header = {"name": "s", "sweep": made.model_dump_json(), "epochs": 4, "identity": {}, "tracking": tracking}
    ledger.begin(header, resume=False)
    for one in records:
        ledger.put(one)
        if one.epochs:
            pace = {"first_step": 1020.0 + one.number, "steps": 4 * len(one.epochs) + 1}
            Path(ledger.trial_dir(one.number), PACE).write_text(json.dumps(pace))
    return ledger.folder


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    found = content(load_board(write(tmp_path, trials(), objectives=TWO)))
    assert [part["id"] for part in found["sections"]] == ["best", "rungs", "pareto", "parallel", "importance", "slices"]
    assert found["missing"] == ""
    assert "12 of 12" in found["summary"]
    assert found["table"].count("<tr>") == 13
    assert "&lt;b&gt;not&lt;/b&gt;" in found["table"]
    assert "<b>not" not in found["table"]
    assert "001" in found["rungs"]
    # Every figure has something in it, and the axes of the parameters are the parameters.
    assert all(figure["data"] for figure in found["figures"].values())
    axes = [d["label"] for d in found["figures"]["parallel"]["data"][0]["dimensions"]]
    assert axes[:3] == ["optimizer", "learning_rate", "weight_decay"]


@pytest.mark.parametrize(("mode", "far", "mark"), [("min", 90.0, "triangle-up"), ("max", -90.0, "triangle-down")])
def test_a_trial_far_behind_stands_on_the_edge_and_flattens_nothing(
    tmp_path: Path, mode: str, far: float, mark: str
) -> None:
    records = [record(n, [0.5 + 0.01 * n], params=params(0.01, None, 8)) for n in range(8)]
    records.append(record(8, [far], STOPPED, params=params(0.1, None, 8)))
    made = write(tmp_path, records, objectives=[{"metric": "team_loss", "mode": mode}])
    drawn = content(load_board(made))["figures"]
    each = drawn["best"]["data"][0]
    assert each["customdata"][8] == far, "what a reader points at is what was measured"
    assert drawn["best"]["data"][1]["customdata"][0] == 0.5
    assert each["marker"]["symbol"] == ["circle"] * 8 + [mark]
    assert max(each["y"]) - min(each["y"]) < 0.1
    low, high = drawn["parallel"]["data"][0]["dimensions"][-1]["range"]
    assert high - low < 0.1
    one = content(load_board(write(tmp_path / "fine", records[:8])))["figures"]["best"]["data"][0]
    assert one["y"] == one["customdata"], "with nobody far behind nothing is moved"


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    found = content(load_board(write(tmp_path, [record(0, [], RUNNING)])))
    assert found["figures"] == {}
    assert "from 8 trials on" in found["missing"]


def test_the_file_needs_nothing_beside_it(tmp_path: Path) -> None:
    path = write_page(write(tmp_path, trials()))
    text = Path(path).read_text(encoding="utf-8")
    assert "@@" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["title"] == "Sweep s"


def test_runs_are_linked_where_the_store_has_pages(tmp_path: Path) -> None:
    found = content(load_board(write(tmp_path, trials(), tracking="http://127.0.0.1:5000")))
    assert 'href="http://127.0.0.1:5000/#/runs/run0"' in found["table"]


def test_it_is_served_up_to_date(tmp_path: Path) -> None:
    records = trials()
    folder = write(tmp_path, records[:3])
    with server(folder, "127.0.0.1", 0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{served.server_address[1]}"

        def ask() -> dict[str, Any]:
            with urllib.request.urlopen(f"{address}/data.json") as answer:
                return dict(json.load(answer))

        assert "3 of 12" in ask()["summary"]
        Ledger(folder).put(records[3])
        assert "4 of 12" in ask()["summary"]
        with urllib.request.urlopen(f"{address}/") as answer:
            assert "const live = true" in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}/../sweep.json")
        served.shutdown()


def test_a_folder_without_a_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no sweep there"):
        write_page(str(tmp_path))


def test_what_decides_is_found_and_noise_is_not() -> None:
    found = analysis.importance(sweep(), trials())
    assert found is not None
    epoch, shares = found
    assert epoch == 1
    assert shares[0].name == "stages.3.learning_rate"
    noise = next(one for one in shares if one.name == analysis.NOISE)
    assert shares[0].low > noise.high
    assert all(one.low <= one.share <= one.high + 1e-9 for one in shares)
    assert sum(one.share for one in shares) == pytest.approx(1.0)
    assert analysis.importance(sweep(), trials()[:5]) is None


def test_best_so_far_counts_every_epoch_in_the_order_of_time() -> None:
    records = [record(0, [0.1, 0.4]), record(1, [0.3])]
    records[1].epochs[0].at = 1001.5  # between the other's two
    found = analysis.best_so_far(records, 1.0)
    assert [(one.spent, one.best, one.number) for one in found] == [(1, 0.1, 0), (2, 0.3, 1), (3, 0.4, 0)]
    assert [one.best for one in analysis.best_so_far(records, -1.0)] == [0.1, 0.1, 0.1]


def test_rungs_tell_who_was_stopped() -> None:
    made = sweep(scheduler={"grace": 1, "reduction": 2})
    records = [record(0, [0.5, 0.6, 0.7, 0.8]), record(1, [0.4], STOPPED), record(2, [0.6, 0.5], STOPPED)]
    first, second = analysis.rungs(made, records, 4, 1.0)
    assert (first.epoch, first.reached, first.stopped, first.cut) == (1, 3, [1], 0.5)
    assert (second.epoch, second.reached, second.stopped, second.cut) == (2, 2, [2], 0.6)
