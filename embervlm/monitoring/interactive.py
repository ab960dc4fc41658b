"""Plotly versions of the figures that are better turned, hovered and zoomed than printed."""

from __future__ import annotations

import itertools
from functools import singledispatch
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from embervlm.evaluation.calibration import BINS, expected_calibration_error, reliability
from embervlm.monitoring import data as d
from embervlm.monitoring import statistics as st
from embervlm.monitoring.drawing.cross import grams_per_point
from embervlm.monitoring.drawing.sankey import node_colors, node_places
from embervlm.monitoring.drawing.stage1 import infonce
from embervlm.monitoring.style import UNKNOWN, Palette, fade, short

_STEPS = 11


def interactive(data: d.FigureData, palette: Palette | None = None) -> Any | None:
    """A `plotly.graph_objects.Figure` of the data, or None where there is only the printed form."""
    figure = _interactive(data, palette or Palette())
    if figure is not None:
        margin = {"l": 10, "r": 10, "t": 30, "b": 10}
        figure.update_layout(margin=margin, font_size=12, template="plotly_white", height=520)
    return figure


@singledispatch
def _interactive(data: d.FigureData, palette: Palette) -> Any | None:
    return None


def _scale(cmap: Any) -> list[list[Any]]:
    """A matplotlib colour map as Plotly writes it."""
    colors = matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap
    return [[float(v), to_hex(colors(v))] for v in np.linspace(0, 1, _STEPS)]


def _none(values: Any) -> list[Any]:
    """NaN as None: a gap in Plotly, and JSON."""
    return [_none(v) if np.ndim(v) else (None if np.isnan(v) else float(v)) for v in np.asarray(values, float)]


def _surface(x: Any, y: Any, z: Any, cmap: Any, **options: Any) -> Any:
    import plotly.graph_objects as go

    # Beside the surface the bar would take a quarter of a telephone's width.
    bar = {"orientation": "h", "thickness": 12, "y": -0.02, "yanchor": "top"}
    places = {"x": np.asarray(x).tolist(), "y": np.asarray(y).tolist()}
    return go.Surface(z=_none(z), colorscale=_scale(cmap), colorbar=bar, **places, **options)


def _scene(x: str, y: str, z: str) -> dict[str, Any]:
    # Far enough away that the labels stay inside a telephone's width, too.
    camera = {"eye": {"x": -2.25, "y": -2.75, "z": 1.5}, "center": {"x": 0, "y": 0, "z": -0.1}}
    return {"xaxis_title": x, "yaxis_title": y, "zaxis_title": z, "aspectmode": "cube", "camera": camera}


@_interactive.register
def _(data: d.SimilarityEvolution, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    if len(data.steps) < 2:
        return None
    tokens = np.arange(1, data.similarity.shape[1] + 1)
    figure = go.Figure(_surface(tokens, data.steps, data.similarity, palette.map("stage1")))
    return figure.update_layout(scene=_scene("visual token", "training step", "cosine similarity"))


@_interactive.register
def _(data: d.LossLandscape, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    x, y = (np.linspace(max(0, v.min() - 0.05), min(2, v.max() + 0.05), 40) for v in (data.positive, data.negative))
    z = infonce(x[None, :], y[:, None], float(data.scale[-1]), data.batch)
    surface = _surface(x, y, z, palette.map("stage1"), opacity=0.8, name="InfoNCE, equal negatives")
    path = go.Scatter3d(
        x=data.positive.tolist(),
        y=data.negative.tolist(),
        z=data.loss.tolist(),
        mode="lines+markers",
        marker={"size": 3, "color": "black"},
        text=[f"step {s:,}" for s in data.steps],
        name="measured in training",
        showlegend=False,
    )
    return go.Figure([surface, path]).update_layout(
        scene=_scene("positive distance", "negative distance", "loss (nats)")
    )


@_interactive.register
def _(data: d.LayerAccuracy, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    if min(len(data.steps), len(data.layers)) < 2:
        return None
    figure = go.Figure()
    for n, (name, look) in enumerate(zip(data.robots, palette.robots(data.robots), strict=True)):
        surface = _surface(
            data.layers, data.steps, data.accuracy[:, n], fade(look.color), cmin=0, cmax=1, showscale=False,
            name=short(name), visible=n == 0,
        )  # fmt: skip
        figure.add_trace(surface)
    buttons = [
        {"label": short(name), "method": "update", "args": [{"visible": [i == n for i in range(len(data.robots))]}]}
        for n, name in enumerate(data.robots)
    ]
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 0, "y": 1.08, "xanchor": "left"}])
    # Layers are whole, and a telephone has room for few of their numbers.
    ticks = {"zaxis_range": [0, 1], "xaxis_dtick": max(1, len(data.layers) // 6)}
    return figure.update_layout(scene=_scene("layer", "training step", "accuracy") | ticks)


@_interactive.register
def _(data: d.StepImportance, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    if len(data.steps) < 2:
        return None
    figure = go.Figure(_surface(np.arange(len(data.reasoning)), data.steps, data.importance, palette.map("stage4")))
    scene: dict[str, Any] = _scene("", "training step", "contribution")
    scene["xaxis"] = {"tickvals": list(range(len(data.reasoning))), "ticktext": list(data.reasoning), "title": ""}
    del scene["xaxis_title"]
    return figure.update_layout(scene=scene)


@_interactive.register
def _(data: d.AttentionFlow, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    colors = [to_hex(color) for color in node_colors(data, palette)]
    places = {c: i / max(1, len(np.unique(data.column)) - 1) for i, c in enumerate(np.unique(data.column))}
    low, height = node_places(data)
    node = {
        "label": [short(name) for name in data.nodes],
        "color": colors,
        "x": [min(0.999, max(0.001, places[c])) for c in data.column],
        "y": np.clip(1 - low - height / 2, 0.001, 0.999).tolist(),
        "pad": 12,
    }
    link = {
        "source": data.start.tolist(),
        "target": data.end.tolist(),
        "value": data.strength.tolist(),
        "color": [_faint(colors[v]) for v in data.start],
    }
    return go.Figure(go.Sankey(node=node, link=link, arrangement="fixed"))


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.4)"


@_interactive.register
def _(data: d.CarbonFootprint, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    grams, cost = np.bincount(data.stage, data.grams, len(data.stages)), grams_per_point(data)
    ids = [f"stage {s}" for s in data.stages] + [f"{i}" for i in range(len(data.parts))]
    labels = [f"Stage {s}" for s in data.stages] + list(data.parts)
    parents = [""] * len(data.stages) + [f"stage {data.stages[g]}" for g in data.stage]
    every = np.concatenate([cost, cost[data.stage]])
    per = ["gain not measured" if np.isnan(c) else "no gain" if np.isinf(c) else f"{c:.3g} g per point" for c in every]
    known = every[np.isfinite(every)]
    most, shades = (float(known.max()) if known.size else 1.0), matplotlib.colormaps[palette.map("bad")]
    marker = {"colors": [UNKNOWN if np.isnan(c) else to_hex(shades(min(c / most, 1.0))) for c in every]}
    return go.Figure(
        go.Treemap(
            ids=ids, labels=labels, parents=parents, values=[*grams.tolist(), *data.grams.tolist()],
            branchvalues="total",
            marker=marker, text=per, root_color="white", texttemplate="%{label}<br>%{value:.3g} g<br>%{text}",
        )
    )  # fmt: skip


@_interactive.register
def _(data: d.Calibration, palette: Palette) -> Any | None:
    import plotly.graph_objects as go

    rows = reliability(data.confidence, data.correct)
    blue, red = palette.pair("cross")
    middle = [(row["low"] + row["high"]) / 2 for row in rows]
    words = [f"{row['count']:.0f} decisions<br>confidence {row['confidence']:.3f}" for row in rows]
    accuracy = [row["accuracy"] for row in rows]
    figure = go.Figure(go.Bar(x=middle, y=accuracy, width=0.92 / BINS, marker_color=blue, text=words, name="accuracy"))
    figure.update_traces(textposition="none", hovertemplate="accuracy %{y:.3f}<br>%{text}<extra></extra>")
    diagonal = {"color": red, "dash": "dash"}
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, name="perfect calibration"))
    ece = expected_calibration_error(data.confidence, data.correct)
    return figure.update_layout(
        xaxis={"title": "confidence", "range": [0, 1]},
        yaxis={"title": "accuracy", "range": [0, 1.02]},
        title=f"ECE = {ece:.3f}",
        legend={"orientation": "h", "y": -0.2},
    )


@_interactive.register
def _(data: d.EfficiencyPareto, palette: Palette) -> Any | None:
    figure = _pareto(data, data.parameters, data.deployability, palette.map("good"), data.deployability_means, True)
    return figure.update_layout(xaxis_title="parameters", yaxis_title=f"{data.benchmark} (%)")


@_interactive.register
def _(data: d.EdgePareto, palette: Palette) -> Any | None:
    log = st.many_times(data.latency_ms)
    figure = _pareto(data, data.latency_ms, data.power_w, palette.map("bad"), "W", log)
    return figure.update_layout(xaxis_title=f"latency (ms), {data.device}", yaxis_title=f"{data.benchmark} (%)")


def _pareto(data: d.EfficiencyPareto | d.EdgePareto, cost: Any, shade: Any, cmap: str, name: str, log: bool) -> Any:
    import plotly.graph_objects as go

    # Room for names at both ends, and neighbours' names on different sides.
    places = np.log10(cost) if log else cost
    room = 0.18 * max(float(np.ptp(places)), 0.1 if log else 1e-9)
    axis = {"type": "log" if log else "linear", "range": [float(places.min()) - room, float(places.max()) + room]}
    sides = dict(zip(np.argsort(cost).tolist(), itertools.cycle(["top center", "bottom center"]), strict=False))

    front = st.pareto(cost, data.accuracy)
    line = go.Scatter(
        x=cost[front].tolist(), y=data.accuracy[front].tolist(), mode="lines", line={"shape": "hv", "dash": "dash"},
        name="Pareto frontier",
    )  # fmt: skip
    known = data.memory_mb[np.isfinite(data.memory_mb)]
    size = np.where(np.isfinite(data.memory_mb), data.memory_mb, 0) / max(float(known.max()) if known.size else 1, 1e-9)
    words = [
        f"{model}<br>{origin}<br>memory " + ("unknown" if np.isnan(memory) else f"{memory:,.0f} MB")
        for model, origin, memory in zip(data.models, data.origins, data.memory_mb, strict=True)
    ]
    figure = go.Figure(line)
    for pick in (np.isfinite(shade), ~np.isfinite(shade)):
        rows = np.flatnonzero(pick)
        if not rows.size:
            continue
        marker: dict[str, Any] = {
            "size": (10 + 30 * np.sqrt(size[rows])).tolist(),
            "symbol": ["square" if data.ours[i] else "circle" for i in rows],
            "line": {"width": 1.5, "color": "#222222"},
            "color": UNKNOWN,
        }
        if np.isfinite(shade[rows[0]]):
            scale = {"colorscale": _scale(cmap), "cmin": 0, "cmax": max(float(shade[rows].max()), 1e-12)}
            marker |= {"color": shade[rows].tolist(), "showscale": True, "colorbar": {"title": name}, **scale}
        figure.add_trace(
            go.Scatter(
                x=cost[rows].tolist(),
                y=data.accuracy[rows].tolist(),
                mode="markers+text",
                text=[data.models[i] for i in rows],
                textposition=[sides[i] for i in rows.tolist()],
                hovertext=[words[i] for i in rows],
                hovertemplate="%{hovertext}<br>%{x:.4g}, %{y:.1f}<extra></extra>",
                cliponaxis=False,
                showlegend=False,
                marker=marker,
            )
        )
    return figure.update_layout(legend={"orientation": "h", "y": -0.2}, xaxis=axis)
