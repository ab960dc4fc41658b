"""A sweep as one HTML page that needs nothing beside it, as a file or served while the sweep runs."""

from __future__ import annotations

import html
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ember_platform import storage
from ember_platform.tuning import analysis
from ember_platform.tuning.charts import COLOURS, figures, short
from ember_platform.tuning.ledger import (
    DASHBOARD,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Ledger,
    LedgerError,
    Record,
    best_of,
)
from ember_platform.tuning.space import SweepConfig

_TEMPLATE = Path(__file__).with_name("page.html")
_TITLES = {
    "best": (
        "Best so far",
        "Every epoch of every trial in the order of time, and the best value yet. Triangles lie beyond the axis.",
    ),
    "rungs": (
        "Who was stopped when",
        "A line per trial; a cross is where it was stopped or failed, a triangle lies beyond the axis.",
    ),
    "pareto": (
        "Pareto front",
        "Finished trials; no other is as good in both and better in one than those on the line.",
    ),
    "parallel": (
        "Parallel coordinates",
        "A line per trial, through its parameters to its last value, or to the edge of the axis. Drag to select.",
    ),
    "importance": ("What mattered", ""),
    "slices": (
        "Value over each parameter",
        "A point per trial at its last value; grey ones were stopped early, triangles lie beyond the axis.",
    ),
}
_IMPORTANCE = (
    "Share of the variance between trials after epoch {epoch} that a random forest explains by each parameter: the "
    "mean over resampled trials, whiskers the middle 90%. What is no higher than the random number says nothing."
)


@dataclass
class Board:
    """What the page is drawn from."""

    folder: str
    header: dict[str, Any]
    sweep: SweepConfig
    records: list[Record]


def load_board(folder: str) -> Board:
    """Read a sweep's folder.

    Raises:
        LedgerError: there is no sweep.
    """
    ledger = Ledger(storage.absolute(folder))
    header = ledger.header()
    if header is None:
        raise LedgerError(f"{folder}: no sweep there (no sweep.json); name the folder of one, <output_dir>/tune/<name>")
    return Board(ledger.folder, header, SweepConfig.model_validate_json(header["sweep"]), ledger.records())


def content(board: Board) -> dict[str, Any]:
    """Everything that changes on the page: texts as HTML, figures as Plotly's JSON."""
    drawn = figures(board.sweep, board.records, board.header["epochs"])
    sections = []
    for name, (title, text) in _TITLES.items():
        if name not in drawn:
            continue
        said = _IMPORTANCE.format(epoch=drawn[name].pop("epoch")) if name == "importance" else text
        sections.append({"id": name, "title": title, "text": said})
    missing = ""
    if "importance" not in drawn:
        missing = f"What mattered is told from {analysis.LEAST_TRIALS} trials on."
    return {
        "title": f"Sweep {board.header['name']}",
        "summary": _summary(board),
        "sections": sections,
        "figures": drawn,
        "missing": missing,
        "rungs": _rung_table(board),
        "table": _table(board),
        "tracking": _tracking(board),
    }


def page(board: Board, live: bool = False) -> str:
    """The page. A live one asks for `data.json` every few seconds."""
    from plotly.offline import get_plotlyjs

    data = json.dumps(content(board)).replace("</", "<\\/")
    parts = {"@@PLOTLY@@": get_plotlyjs(), "@@DATA@@": data, "@@LIVE@@": json.dumps(live)}
    text = _TEMPLATE.read_text(encoding="utf-8").replace("@@TITLE@@", html.escape(f"Sweep {board.header['name']}"))
    for mark, part in parts.items():
        text = text.replace(mark, part, 1)
    return text


def write_page(folder: str) -> str:
    """Write `dashboard.html` into a sweep's folder; its path.

    Raises:
        LedgerError: there is no sweep.
    """
    board = load_board(folder)
    path = storage.join(board.folder, DASHBOARD)
    storage.write_bytes(path, page(board).encode())
    return path


def server(folder: str, host: str, port: int) -> ThreadingHTTPServer:
    """A server of a sweep's page (port 0: a free one); the caller runs and closes it.

    Raises:
        LedgerError: there is no sweep. OSError: the port is taken.
    """
    load_board(folder)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """`/` is the page, `/data.json` what changes on it."""

        def do_GET(self) -> None:
            with lock:  # drawing takes a core for a second; two readers need not take two
                if self.path == "/":
                    self._send("text/html; charset=utf-8", page(load_board(folder), live=True))
                elif self.path == "/data.json":
                    self._send("application/json", json.dumps(content(load_board(folder))))
                else:
                    self.send_error(404)

        def _send(self, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing for each request."""

    return ThreadingHTTPServer((host, port), Handler)


# ------------------------------------------------------------------------ texts


def _summary(board: Board) -> str:
    """The figures at the top."""
    records, objective = board.records, board.sweep.objectives[0]
    counts = {status: sum(r.status == status for r in records) for status in (FINISHED, STOPPED, FAILED, RUNNING)}
    epochs = sum(len(r.epochs) for r in records)
    full = len(records) * board.header["epochs"]
    best = best_of(records, objective)
    facts = [(f"{len(records)} of {board.sweep.trials}", "trials begun")]
    facts += [(str(count), status) for status, count in counts.items() if count]
    facts.append((str(epochs), f"epochs ({full}, were all trained to the end)"))
    if best is not None:
        facts.insert(0, (f"{best.objective(objective):.4f}", f"best {objective.metric}, trial {best.name}"))
    took = analysis.overhead(records)
    if took is not None:
        facts.append((f"{took[0]:.0f} s", f"from a trial's start to its first step (median; at most {took[1]:.0f})"))
    return "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>" for value, text in facts)


def _rung_table(board: Board) -> str:
    rows = analysis.rungs(board.sweep, board.records, board.header["epochs"], board.sweep.objectives[0].sign())
    lines = [
        f"<tr><td>{rung.epoch}</td><td>{rung.reached}</td><td>{len(rung.stopped)}</td>"
        f"<td>{'' if rung.cut is None else f'{rung.cut:.4f}'}</td>"
        f"<td>{', '.join(f'{n:03d}' for n in rung.stopped)}</td></tr>"
        for rung in rows
    ]
    least = "lowest" if board.sweep.objectives[0].mode == "max" else "highest"
    names = ("rung (epoch)", "reached it", "stopped", f"{least} that went on", "trials stopped")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    return f"<table>{head}{''.join(lines)}</table>" if lines else ""


def _table(board: Board) -> str:
    """Every trial, the best first."""
    sweep, objective = board.sweep, board.sweep.objectives[0]
    sign = objective.sign()

    def rank(record: Record) -> tuple[int, float]:
        value = record.epochs[-1].value if record.epochs else None
        return (0 if record.status == FINISHED else 1, -sign * value if value is not None else float("inf"))

    names = [o.metric for o in sweep.objectives]
    # Where every epoch tells the first objective, the last of them stands for trials without figures.
    told = any(names[0] in epoch.metrics for record in board.records for epoch in record.epochs)
    head = [
        "trial",
        "status",
        "epochs",
        *([] if told else ["value"]),
        *names,
        *(short(sweep, name) for name in sweep.space),
        "to first step",
        "run",
    ]
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for record in sorted(board.records, key=rank):
        first = record.first_step_seconds()
        last = record.epochs[-1].value if record.epochs else None
        figures = {**({names[0]: last} if told else {}), **record.figures}
        cells = [
            f'<a href="trials/{record.name}/">{record.name}</a>',
            f'<span style="color:{COLOURS[record.status]}">{record.status}</span>{_why(record)}',
            str(len(record.epochs)),
            *([] if told else [_number(last)]),
            *(_number(figures.get(name)) for name in names),
            *(html.escape(_text(record.params.get(name))) for name in sweep.space),
            f"{first:.0f} s" if first is not None else "",
            _run(board, record),
        ]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _why(record: Record) -> str:
    if record.status != FAILED:
        return ""
    reason = f"{record.fault}: {record.reason}"
    if len(reason) < 50:
        return f'<div class="why">{html.escape(reason)}</div>'
    return f'<details class="why"><summary>{html.escape(reason[:40])}…</summary>{html.escape(reason)}</details>'


def _run(board: Board, record: Record) -> str:
    """The trial's tracking run: a link where the store has pages."""
    if record.run is None:
        return ""
    tracking = str(board.header.get("tracking") or "")
    name = html.escape(record.run[:8])
    if tracking.startswith("http"):
        return f'<a href="{html.escape(tracking.rstrip("/"))}/#/runs/{html.escape(record.run)}">{name}</a>'
    return f'<code title="{html.escape(record.run)}">{name}</code>'


def _tracking(board: Board) -> str:
    tracking = str(board.header.get("tracking") or "")
    shown = f"MLflow: <code>mlflow ui --backend-store-uri {html.escape(tracking)}</code> · " if tracking else ""
    logs = html.escape(storage.join(board.folder, "tensorboard"))
    return f"{shown}TensorBoard: <code>tensorboard --logdir {logs}</code>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
