"""Files, formats and colours that all figures share."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from embervlm.monitoring.stage_visualizations import CrossStageVisualizer, Stage3Visualizer
from embervlm.monitoring.style import Palette, short
from tests.monitoring import samples
from tests.monitoring.samples import ROBOTS


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_png_pdf_and_svg_are_written_and_returned(tmp_path: Path) -> None:
    visualizer = Stage3Visualizer(tmp_path)
    figure, image = visualizer.plot_task_robot(samples.task_robot())
    assert isinstance(figure, Figure)
    assert names(tmp_path) == ["pdf/task_robot_heatmap.pdf", "svg/task_robot_heatmap.svg", "task_robot_heatmap.png"]
    assert sorted(visualizer.written) == sorted(tmp_path / name for name in names(tmp_path))
    with Image.open(tmp_path / "task_robot_heatmap.png") as saved:
        assert saved.info["dpi"] == pytest.approx((300, 300), abs=1)
        assert saved.size == image.size == tuple((figure.get_size_inches() * 300).round().astype(int))
        assert np.array_equal(np.asarray(saved), np.asarray(image)), "what is returned is what was written"
        assert np.asarray(saved.convert("L")).std() > 10, "not blank"
    assert figure.dpi == matplotlib.rcParams["figure.dpi"], "the file's resolution is not the figure's"
    assert (tmp_path / "pdf/task_robot_heatmap.pdf").read_bytes().startswith(b"%PDF")
    svg = (tmp_path / "svg/task_robot_heatmap.svg").read_text()
    assert "Selection accuracy by task type and robot" in svg
    assert samples.NOTE in svg, "the caption says where the data is from"


def test_across_stages_png_files_are_in_both_places(tmp_path: Path) -> None:
    CrossStageVisualizer(tmp_path, dpi=30).plot_benchmark_progression_heatmap(samples.benchmarks())
    stem = "benchmark_progression_heatmap"
    assert names(tmp_path) == [f"{stem}.png", f"pdf/{stem}.pdf", f"png/{stem}.png", f"svg/{stem}.svg"]
    assert (tmp_path / f"{stem}.png").read_bytes() == (tmp_path / f"png/{stem}.png").read_bytes()


def test_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("a", "b"):
        Stage3Visualizer(tmp_path / place, dpi=40).plot_task_robot(samples.task_robot())
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_nothing_is_written_unless_told(tmp_path: Path) -> None:
    _, image = Stage3Visualizer(tmp_path, dpi=30).plot_task_robot(samples.task_robot(), save=False)
    assert names(tmp_path) == []
    assert image.mode == "RGB"


def test_animation_has_a_frame_per_step_and_they_differ(tmp_path: Path) -> None:
    Stage3Visualizer(tmp_path, dpi=30, vector=False).plot_confusion_evolution(samples.confusion())
    assert names(tmp_path) == ["confusion_evolution.gif", "confusion_evolution.png"]
    with Image.open(tmp_path / "confusion_evolution.gif") as movie:
        assert movie.n_frames == 5
        assert movie.info["loop"] == 0
        frames = []
        for n in range(5):
            movie.seek(n)
            frames.append(np.asarray(movie.convert("L"), int))
    assert all(np.abs(a - b).max() > 50 for a, b in pairwise(frames))


def test_steps_have_files_of_their_own(tmp_path: Path) -> None:
    visualizer = Stage3Visualizer(tmp_path, dpi=30)
    visualizer.plot_confidence_calibration([0.9, 0.2], [1, 0], step=785)
    assert names(tmp_path) == ["calibration_plots/step_000785.png"]


def test_drawing_leaves_the_global_style_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    Stage3Visualizer(tmp_path, dpi=30).plot_task_robot(samples.task_robot(), save=False)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend().lower() == "agg"


def test_robots_have_the_documented_colours() -> None:
    drone, underwater, humanoid, wheeled, legged = (to_rgb(look.color) for look in Palette().robots(ROBOTS))
    assert drone[2] == max(drone)
    assert underwater[0] < 0.2 < underwater[1] < underwater[2], "cyan"
    assert humanoid[0] > humanoid[1] > humanoid[2], "orange"
    assert wheeled[1] == max(wheeled)
    assert legged[0] == max(legged)
    assert legged[1] < 0.3


@pytest.mark.parametrize("safe", [False, True])
def test_looks_are_distinct_and_stay_with_the_robot(safe: bool) -> None:
    palette = Palette(safe)
    every = palette.robots([*ROBOTS, "Crawler", "Boat"])
    assert len({look.color for look in every}) == 7
    assert len({look.marker for look in every}) == 7
    assert palette.robots(["Humanoid"])[0] == every[2]
    assert [short(name) for name in ROBOTS] == ["Drone", "Underwater", "Humanoid", "Wheeled", "Legged"]


def luminance(color: str) -> float:
    """Relative luminance of the colour (WCAG)."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


#: What people without one kind of cone see: rows mix linear RGB (Viénot, Brettel & Mollon, 1999).
DEUTERAN = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
PROTAN = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])


@pytest.mark.parametrize("cone", [DEUTERAN, PROTAN], ids=["deuteranopia", "protanopia"])
def test_safe_colours_stay_apart_where_the_named_ones_may_not(cone: np.ndarray) -> None:
    def nearest(safe: bool) -> float:
        linear = [np.array(to_rgb(look.color)) ** 2.2 for look in Palette(safe).robots(ROBOTS)]
        seen = [np.clip(cone @ c, 0, 1) ** (1 / 2.2) for c in linear]
        return min(float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i])

    assert nearest(safe=True) > 0.13
    assert nearest(safe=True) > nearest(safe=False)


def test_scheme_maps_are_those_of_the_documentation() -> None:
    named, safe = Palette(), Palette(True)
    assert named.map("cross") == "viridis"
    assert named.map("good") == "RdYlGn"
    assert named.map("stage2") == "Purples"
    assert named.map("stage4") == "YlOrRd"
    for scheme in ("stage1", "stage2", "stage3", "stage4", "cross", "good"):
        gray = [
            luminance(matplotlib.colors.to_hex(matplotlib.colormaps[safe.map(scheme)](v))) for v in np.linspace(0, 1, 9)
        ]
        assert len({bool(step > 0) for step in np.diff(gray)}) == 1, f"{scheme} does not run one way in grey"


def test_two_colours_of_a_scheme_differ_in_grey_or_are_hatched() -> None:
    for safe in (False, True):
        for scheme in ("stage2", "stage4"):
            a, b = (luminance(color) for color in Palette(safe).pair(scheme))
            assert abs(a - b) > 0.08, (scheme, safe)


def test_switch_changes_the_picture() -> None:
    plain, safe = (
        Stage3Visualizer("unused", dpi=30, safe_colors=flag).plot_robot_performance(samples.performance(), save=False)[
            1
        ]
        for flag in (False, True)
    )
    assert plain.size == safe.size
    assert np.abs(np.asarray(plain, int) - np.asarray(safe, int)).max() > 60


def test_no_file_of_the_package_draws_numbers_that_nobody_measured() -> None:
    """Randomness in drawing is only the spread of points and the seed of t-SNE and bootstrap."""
    root = Path(__file__).resolve().parents[2] / "embervlm" / "monitoring"
    uses = {
        f"{path.relative_to(root).as_posix()}: {line.strip()}"
        for path in root.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\brandom\.|default_rng|np\.random", line)
    }
    assert len(uses) == 4, uses
    assert all(re.search(r"default_rng\((0|seed)\)", use) for use in uses), uses
