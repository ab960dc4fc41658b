"""The reports of a run: one HTML file, one PDF, and the figures for a LaTeX document.

All three are made of what `embervlm.monitoring.gallery` drew: pictures, the sentences computed from their data, where
the data came from, and what is missing and why.
"""

from __future__ import annotations

import base64
import html
import io
import json
import multiprocessing
import shutil
import textwrap
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from embervlm.monitoring.data import FigureDataError, FigureStore
from embervlm.monitoring.entries import GALLERY, Entry
from embervlm.monitoring.interactive import interactive
from embervlm.monitoring.page import CSS, HOMES
from embervlm.monitoring.style import FAINT, STYLE, Palette

#: Width in pixels of the pictures inside the HTML file.
_WIDTH = 1600


@dataclass(frozen=True)
class Shown:
    """One figure of the report: its entry in the gallery and its row of `figures.json`."""

    entry: Entry
    files: tuple[Path, ...]
    reason: str
    finding: str
    source: str

    @property
    def anchor(self) -> str:
        """Its name inside the page."""
        return f"{self.entry.kind.home}-{self.entry.kind.name}"

    def file(self, ending: str) -> Path | None:
        """The file of an ending that stands nearest to the top folder."""
        return min((f for f in self.files if f.suffix == ending), key=lambda f: len(f.parts), default=None)


def shown(run: str | Path) -> list[Shown]:
    """Every figure of the gallery with what became of it.

    Raises:
        FigureDataError: the run's figures were not drawn yet.
    """
    run = Path(run)
    path = run / "figures" / "figures.json"
    try:
        rows = {row["figure"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
        return [_shown(run, entry, rows[f"{entry.kind.home}/{entry.kind.name}"]) for entry in GALLERY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FigureDataError(
            f"{path}: no list of drawn figures ({error!r}); run `embervlm figures --run {run}`"
        ) from error


def _shown(run: Path, entry: Entry, row: dict[str, Any]) -> Shown:
    files = tuple(run / name for name in row["files"])
    return Shown(entry, files, row["not_drawn"] or "", row["finding"], row["source"])


def write_reports(run: str | Path, safe_colors: bool = False, workers: int = 1) -> list[Path]:
    """Write all three; with two workers the page and the PDF at the same time.

    Raises:
        FigureDataError: the run's figures were not drawn yet, or without PDF files.
    """
    if workers < 2:
        return [write_html(run, safe_colors=safe_colors), write_pdf(run), write_latex(run)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        page = other.submit(write_html, run, safe_colors=safe_colors)
        rest = [write_pdf(run), write_latex(run)]
        return [page.result(), *rest]


# ------------------------------------------------------------------------ HTML


def write_html(run: str | Path, title: str = "EmberVLM: figures of a run", safe_colors: bool = False) -> Path:
    """Write `report.html`: one file that needs nothing else, with interactive figures where there are such.

    Raises:
        FigureDataError: the run's figures were not drawn yet.
    """
    from plotly.offline import get_plotlyjs

    run, figures = Path(run), shown(run)
    drawn = [figure for figure in figures if not figure.reason]
    bodies = [_section(home, [f for f in drawn if f.entry.kind.home == home], run, safe_colors) for home in HOMES]
    links = [
        f'<li><a href="#{home}">{html.escape(name)}</a><ol>'
        + "".join(f'<li><a href="#{f.anchor}">{html.escape(f.entry.title)}</a></li>' for f in own)
        + "</ol></li>"
        for home, name in HOMES.items()
        if (own := [f for f in drawn if f.entry.kind.home == home])
    ]
    missing = [f for f in figures if f.reason]
    lost = "".join(
        f"<li><b>{html.escape(f.entry.title)}</b> ({f.entry.kind.home}): {html.escape(f.reason)}</li>" for f in missing
    )
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title><style>{CSS}</style><script>{get_plotlyjs()}</script></head><body>",
        f"<nav><h2>Contents</h2><ul>{''.join(links)}"
        + ('<li><a href="#missing">Not drawn</a></li>' if missing else "")
        + "</ul></nav><main>",
        f"<h1>{html.escape(title)}</h1><p>{len(drawn)} of {len(figures)} figures. Every number was recorded by the ",
        "run; the sentences under <b>This run</b> are computed from the same data as the figure.</p>",
        *bodies,
        f'<section id="missing"><h2>Not drawn</h2><ul>{lost}</ul></section>' if missing else "",
        "</main></body></html>",
    ]
    path = run / "report.html"
    path.write_text("\n".join(page), encoding="utf-8")
    return path


def _section(home: str, figures: list[Shown], run: Path, safe_colors: bool) -> str:
    if not figures:
        return ""
    articles = "".join(_article(figure, run, safe_colors) for figure in figures)
    return f'<section id="{home}"><h2>{html.escape(HOMES[home])}</h2>{articles}</section>'


def _article(figure: Shown, run: Path, safe_colors: bool) -> str:
    name = html.escape(figure.entry.title)
    picture = f'<img alt="{name}" loading="lazy" src="{_embedded(figure)}">'
    data = FigureStore(run).read(figure.entry.kind)
    live = None if data is None else interactive(data, Palette(safe_colors))
    if live is not None:
        settings = {"responsive": True, "displaylogo": False}
        plot = live.to_html(full_html=False, include_plotlyjs=False, config=settings, div_id=f"plot-{figure.anchor}")
        picture = f'<div class="plot">{plot}</div><details><summary>As printed</summary>{picture}</details>'
    source = f'<p class="source">{html.escape(figure.source)}</p>' if figure.source else ""
    return (
        f'<article id="{figure.anchor}"><h3>{name}</h3>{picture}'
        f"<p><b>How to read it.</b> {html.escape(figure.entry.reading)}</p>"
        f"<p><b>This run.</b> {html.escape(figure.finding)}</p>{source}</article>"
    )


def _embedded(figure: Shown) -> str:
    """The picture as a data URL: an animation as it is, anything else as WebP of at most 1600 pixels' width."""
    movie, still = figure.file(".gif"), figure.file(".png")
    if movie is not None:
        return f"data:image/gif;base64,{base64.b64encode(movie.read_bytes()).decode()}"
    if still is None:
        raise FigureDataError(f"{figure.anchor}: its PNG is not in the list of files; draw the figures again")
    buffer = io.BytesIO()
    _opened(still).save(buffer, "WEBP", quality=88, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        picture = file.convert("RGB")
        if picture.width > _WIDTH:
            picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
        return picture


# ------------------------------------------------------------------------- PDF


def write_pdf(run: str | Path, title: str = "EmberVLM: figures of a run") -> Path:
    """Write `report.pdf`: contents, then a page per figure with its sentences.

    Raises:
        FigureDataError: the run's figures were not drawn yet.
    """
    run, figures = Path(run), shown(run)
    path = run / "report.pdf"
    undated = {"CreationDate": None, "ModDate": None, "Title": title}
    with matplotlib.rc_context(STYLE), PdfPages(path, metadata=undated) as book:
        for page in _contents(title, figures):
            book.savefig(page)
        for figure in figures:
            if not figure.reason:
                book.savefig(_page(figure))
    return path


def _contents(title: str, figures: list[Shown]) -> list[Figure]:
    lines: list[tuple[str, bool]] = []
    for home, name in HOMES.items():
        lines.append((name, True))
        for figure in (f for f in figures if f.entry.kind.home == home):
            said = f"not drawn: {figure.reason}" if figure.reason else figure.finding
            lines += [(part, False) for part in textwrap.wrap(f"{figure.entry.title}. {said}", 165)]
    pages = []
    for start in range(0, len(lines), 44):
        page = Figure(figsize=(11.7, 8.3))
        page.text(0.06, 0.94, title, fontsize=15, weight="bold")
        for row, (words, head) in enumerate(lines[start : start + 44]):
            weight = "bold" if head else "normal"
            page.text(0.06 if head else 0.08, 0.9 - row * 0.0195, words, fontsize=9 if head else 8, weight=weight)
        pages.append(page)
    return pages


def _page(figure: Shown) -> Figure:
    still = figure.file(".png")
    if still is None:
        raise FigureDataError(f"{figure.anchor}: its PNG is not in the list of files; draw the figures again")
    page = Figure(figsize=(11.7, 8.3))
    page.text(0.06, 0.94, f"{HOMES[figure.entry.kind.home]}: {figure.entry.title}", fontsize=13, weight="bold")
    ax = page.add_axes((0.06, 0.19, 0.88, 0.73))
    ax.imshow(_opened(still), aspect="equal", interpolation="none")
    ax.set_axis_off()
    ax.set_anchor("C")
    for top, head, words in ((0.16, "How to read it. ", figure.entry.reading), (0.105, "This run. ", figure.finding)):
        page.text(0.06, top, textwrap.fill(head + words, 150), fontsize=9, va="top")
    page.text(0.06, 0.05, textwrap.shorten(figure.source, 200), fontsize=7, color=FAINT, va="top")
    return page


# ----------------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\rightarrow$", "–": "--", "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\geq$", "‖": r"$\|$", "·": r"$\cdot$", "…": r"\ldots{}", "|": r"$|$", "<": "$<$", ">": "$>$", "±": r"$\pm$",
}  # fmt: skip


def latex_text(words: str) -> str:
    """Words as LaTeX prints them."""
    return "".join(_LATEX.get(letter, letter) for letter in words)


def write_latex(run: str | Path) -> Path:
    """Write `figures/latex/`: `figures.tex` with a float per figure, and the PDF files that it shows.

    Raises:
        FigureDataError: the run's figures were not drawn yet, or without PDF files.
    """
    run = Path(run)
    folder = run / "figures" / "latex"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    floats = [
        "% Put \\usepackage{graphicx} and \\usepackage[utf8]{inputenc} into the preamble, and \\input{figures} where",
        "% the figures shall stand; this folder must be the document's, or on TEXINPUTS.",
    ]
    for figure in shown(run):
        if figure.reason:
            continue
        vector = figure.file(".pdf")
        if vector is None:
            raise FigureDataError(f"{figure.anchor}: has no PDF; draw the figures again with vector files")
        shutil.copyfile(vector, folder / f"{figure.anchor}.pdf")
        caption = " ".join(
            part for part in (f"{figure.entry.title}.", figure.finding, figure.entry.reading, figure.source) if part
        )
        floats.append(
            f"\n\\begin{{figure}}[tbp]\n  \\centering\n  \\includegraphics[width=\\linewidth]{{{figure.anchor}.pdf}}\n"
            f"  \\caption{{{latex_text(caption)}}}\n  \\label{{fig:{figure.anchor}}}\n\\end{{figure}}"
        )
    path = folder / "figures.tex"
    path.write_text("\n".join(floats) + "\n", encoding="utf-8")
    return path
