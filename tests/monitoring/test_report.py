"""The reports: everything that was drawn is in them, in words and pictures, and nothing else is needed to read them."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embervlm.monitoring import data as d
from embervlm.monitoring import gallery as g
from embervlm.monitoring.entries import GALLERY
from embervlm.monitoring.interactive import interactive
from embervlm.monitoring.report import latex_text, shown, write_html, write_latex, write_pdf, write_reports
from tests.monitoring import samples

#: Figures of the run that the report is made of: one animation, four interactive ones, one that is neither.
KINDS = (
    samples.confusion,
    samples.similarity,
    samples.calibration,
    samples.flow,
    samples.carbon,
    samples.task_robot,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for make in KINDS:
        d.FigureStore(folder).write(make())
    g.draw_run(folder, g.Options(dpi=40, series=False))
    return folder


class Page(HTMLParser):
    """What of a page the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name == "src":
                self.sources.append(value or "")


def test_page_has_every_drawn_figure_and_names_the_rest(run: Path) -> None:
    text = write_html(run).read_text(encoding="utf-8")
    page = Page(text)
    for figure in shown(run):
        assert (figure.anchor in page.ids) == (not figure.reason), figure.anchor
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "6 of 30 figures" in text
    assert "nothing was recorded in figures/figure_data/ablation_tornado/" in text
    assert "57 g CO2eq and 150 Wh in all" in text
    assert text.count(samples.NOTE) >= 6


def test_page_needs_no_other_file_and_no_network(run: Path) -> None:
    text = write_html(run).read_text(encoding="utf-8")
    page = Page(text)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert len(page.sources) == 6
    kind, content = page.sources[[s.startswith("data:image/gif") for s in page.sources].index(True)].split(",")
    assert kind == "data:image/gif;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as movie:
        assert movie.n_frames == 5


def test_page_has_the_interactive_figures(run: Path) -> None:
    text = write_html(run).read_text(encoding="utf-8")
    for name in ("stage1-similarity_evolution_3d", "stage3-confidence_calibration", "cross-carbon_footprint_treemap"):
        assert f'id="plot-{name}"' in text
    assert 'id="plot-stage3-task_robot_heatmap"' not in text


def test_words_of_the_data_cannot_become_markup(tmp_path: Path) -> None:
    odd = "<script>alert(1)</script> & more"
    d.FigureStore(tmp_path).write(
        d.TaskRobot(robots=("Drone",), tasks=("inspect",), correct=[[1]], total=[[2]], step=1, source=odd)
    )
    g.draw_run(tmp_path, g.Options(dpi=20, vector=False, series=False))
    text = write_html(tmp_path).read_text(encoding="utf-8")
    assert odd not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_pdf_has_contents_and_a_page_per_figure(run: Path) -> None:
    content = write_pdf(run).read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type /Page\b", content))
    assert pages == 1 + len(KINDS)
    assert write_pdf(run).read_bytes() == content


def test_latex_bundle_has_a_float_and_a_file_per_figure(run: Path) -> None:
    path = write_latex(run)
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"\\includegraphics\[width=\\linewidth\]\{(.+?)\}", text)
    assert len(files) == len(KINDS) == text.count(r"\begin{figure}") == text.count(r"\end{figure}")
    for name in files:
        assert (path.parent / name).read_bytes().startswith(b"%PDF")
    assert text.isascii() or all(letter not in text for letter in "→–−×≥‖")
    assert latex_text("50% of a_b → c") == r"50\% of a\_b $\rightarrow$ c"


def test_two_processes_write_the_same_reports(run: Path) -> None:
    found = []
    for workers in (1, 2):
        paths = write_reports(run, workers=workers)
        assert [path.relative_to(run).as_posix() for path in paths] == [
            "report.html",
            "report.pdf",
            "figures/latex/figures.tex",
        ]
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_reports_say_what_to_do_before_figures_are_drawn(tmp_path: Path) -> None:
    for write in (write_html, write_pdf, write_latex):
        with pytest.raises(d.FigureDataError, match="run `embervlm figures --run"):
            write(tmp_path)


# ----------------------------------------------------------------- interactive


def trace(data: d.FigureData, place: int = 0) -> dict[str, Any]:
    figure = interactive(data)
    assert figure is not None
    return json.loads(figure.to_json())["data"][place]


def decoded(value: Any) -> Any:
    """Plotly writes long arrays as base64."""
    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return flat.reshape([int(n) for n in str(value["shape"]).split(",")]) if "shape" in value else flat
    return np.array(value, float)


def test_interactive_surfaces_hold_the_data() -> None:
    data = samples.similarity()
    surface = trace(data)
    np.testing.assert_allclose(decoded(surface["z"]), data.similarity)
    np.testing.assert_allclose(decoded(surface["y"]), data.steps)
    layers = samples.layer_accuracy()
    np.testing.assert_allclose(decoded(trace(layers, 2)["z"]), layers.accuracy[:, 2])
    assert trace(layers, 2)["name"] == "Humanoid"
    steps = samples.importance()
    np.testing.assert_allclose(decoded(trace(steps)["z"]), steps.importance)
    path = trace(samples.landscape(), 1)
    np.testing.assert_allclose(decoded(path["z"]), samples.landscape().loss)


def test_interactive_flow_and_treemap_hold_the_data() -> None:
    data = samples.flow()
    link = trace(data)["link"]
    np.testing.assert_allclose(decoded(link["value"]), data.strength)
    np.testing.assert_array_equal(decoded(link["source"]), data.start)
    boxes = trace(samples.carbon())
    assert dict(zip(boxes["labels"][:4], boxes["values"][:4], strict=True)) == {
        "Stage 1": 14, "Stage 2": 9, "Stage 3": 23, "Stage 4": 11,
    }  # fmt: skip
    assert boxes["parents"][4:6] == ["stage 1", "stage 1"]
    assert boxes["text"][3] == "gain not measured"


def test_interactive_calibration_and_pareto_hold_the_data() -> None:
    data = d.Calibration(confidence=[0.9] * 4, correct=[1, 1, 1, 0], step=1)
    np.testing.assert_allclose(decoded(trace(data)["y"]), [0.75])
    for made, cost in ((samples.efficiency(), "parameters"), (samples.edge(), "latency_ms")):
        found = {}
        for dots in (trace(made, 1), trace(made, 2)):
            shown = zip(dots["text"], decoded(dots["x"]), decoded(dots["y"]), dots["hovertext"], strict=True)
            found.update({name: (x, y, words) for name, x, y, words in shown})
        for i, name in enumerate(made.models):
            assert found[name][:2] == (getattr(made, cost)[i], made.accuracy[i])
            assert made.origins[i] in found[name][2]
        assert trace(made, 2)["marker"]["color"] == "#bdbdbd", "what is unknown has no colour of the scale"


def test_only_some_figures_are_interactive() -> None:
    made = {e.kind.name for e in GALLERY if interactive(samples.SAMPLES[e.kind]()) is not None}
    assert made == {
        "similarity_evolution_3d",
        "contrastive_loss_landscape",
        "layer_accuracy_3d_surface",
        "reasoning_step_importance_3d",
        "attention_flow_sankey",
        "carbon_footprint_treemap",
        "confidence_calibration",
        "parameter_efficiency_pareto",
        "edge_deployment_pareto",
    }
    single = d.SimilarityEvolution(steps=[1], similarity=[[0.1, 0.2, 0.3, 0.4]])
    assert interactive(single) is None, "one evaluation has no surface"
