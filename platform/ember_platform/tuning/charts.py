"""A sweep's figures, as Plotly's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ember_platform.tuning import analysis
from ember_platform.tuning.ledger import FAILED, FINISHED, RUNNING, STOPPED, Record, pareto
from ember_platform.tuning.space import Parameter, SweepConfig

COLOURS = {FINISHED: "#1f6fb4", STOPPED: "#98a2ae", FAILED: "#c8503c", RUNNING: "#dd9a1f"}
_BEST, _INK, _LINES = "#0b7a55", "#20262d", "#e4e8ec"
Figure = dict[str, Any]


def figures(sweep: SweepConfig, records: Sequence[Record], epochs: int) -> dict[str, Figure]:
    """Every figure for which there is something to show, by name."""
    made = {
        "best": best_figure(sweep, records),
        "rungs": rungs_figure(sweep, records, epochs),
        "parallel": parallel_figure(sweep, records),
        "importance": importance_figure(sweep, records),
        "slices": slices_figure(sweep, records),
        "pareto": pareto_figure(sweep, records),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


class _Axis:
    """An axis of values that one trial far behind the others does not flatten.

    What is worse than the far fence (Tukey, 1977: three times the middle half's width beyond it) stands on the axis's
    edge as a triangle; what is better is never cut.
    """

    def __init__(self, sweep: SweepConfig, values: Sequence[float]) -> None:
        sign = sweep.objectives[0].sign()
        worse = -sign * np.array([value for value in values if math.isfinite(value)] or [0.0])
        first, third = np.quantile(worse, [0.25, 0.75])
        inside = worse[worse <= third + 3 * (third - first)]
        self.cut = bool(third > first and len(inside) < len(worse))
        best, last = -sign * inside.min(), -sign * inside.max()
        self._low, self._high = sorted((float(best), float(last + 0.1 * (last - best))))
        self._symbol = "triangle-up" if sign < 0 else "triangle-down"

    def shown(self, values: Sequence[float]) -> list[float]:
        """The values, those that are cut on the edge."""
        return [min(max(v, self._low), self._high) for v in values] if self.cut else list(values)

    def symbols(self, values: Sequence[float]) -> list[str]:
        """A mark for each value."""
        return ["circle" if v == shown else self._symbol for v, shown in zip(values, self.shown(values), strict=True)]

    @property
    def ticks(self) -> dict[str, Any]:
        """The range of a dimension that has no marks of its own."""
        return {"range": [self._low, self._high]} if self.cut else {}


def _figure(traces: list[Any], height: int = 360, **layout: Any) -> Figure:
    import plotly.graph_objects as go

    made = go.Figure(traces)
    made.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 64, "r": 24, "t": 16, "b": 56},
        font={"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **layout,
    )
    made.update_xaxes(gridcolor=_LINES, zeroline=False)
    made.update_yaxes(gridcolor=_LINES, zeroline=False)
    return dict(json.loads(made.to_json()))


def best_figure(sweep: SweepConfig, records: Sequence[Record]) -> Figure | None:
    """The best value over the epochs that all trials have spent."""
    import plotly.graph_objects as go

    objective = sweep.objectives[0]
    rows = analysis.best_so_far(records, objective.sign())
    if not rows:
        return None
    spent = [row.spent for row in rows]
    hover = [f"trial {row.number:03d}, epoch {row.epoch}" for row in rows]
    values = [row.value for row in rows]
    axis = _Axis(sweep, values)
    each = go.Scatter(
        x=spent, y=axis.shown(values), mode="markers", name="an epoch of a trial", text=hover, customdata=values,
        cliponaxis=False,
        marker={"color": COLOURS[STOPPED], "size": 6, "symbol": axis.symbols(values)},
        hovertemplate="%{text}: %{customdata:.4f}<extra></extra>",
    )  # fmt: skip
    bests = [row.best for row in rows]
    best = go.Scatter(
        x=spent, y=axis.shown(bests), mode="lines", name="best so far", customdata=bests,
        line={"color": _BEST, "width": 2.5, "shape": "hv"},
        hovertemplate="%{customdata:.4f} after %{x} epochs<extra></extra>",
    )  # fmt: skip
    return _figure([each, best], xaxis={"title": "epochs spent, all trials"}, yaxis={"title": value_label(sweep)})


def rungs_figure(sweep: SweepConfig, records: Sequence[Record], epochs: int) -> Figure | None:
    """Every trial's way through the epochs, with the rungs at which trials are compared."""
    import plotly.graph_objects as go

    told = [record for record in records if record.epochs]
    if not told:
        return None
    traces: list[Any] = []
    named: set[str] = set()
    axis = _Axis(sweep, [e.value for record in told for e in record.epochs])
    for record in told:
        x, y = [e.epoch for e in record.epochs], [e.value for e in record.epochs]
        marks = axis.symbols(y)
        if record.status in (STOPPED, FAILED):
            marks[-1] = "x"
        traces.append(
            go.Scatter(
                x=x, y=axis.shown(y), customdata=y, cliponaxis=False,
                mode="lines+markers", name=record.status, legendgroup=record.status,
                showlegend=record.status not in named, line={"color": COLOURS[record.status], "width": 1.4},
                marker={"size": 8, "symbol": marks}, text=[f"trial {record.name} ({record.status})"] * len(x),
                hovertemplate="%{text}<br>epoch %{x}: %{customdata:.4f}<extra></extra>",
            )
        )  # fmt: skip
        named.add(record.status)
    milestones = analysis.milestones(sweep.scheduler, epochs)
    shapes = [
        {
            "type": "line",
            "x0": at,
            "x1": at,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": "#b8c0c8", "dash": "dot"},
        }
        for at in milestones
    ]
    across = {"title": "epoch of the trial (dotted: rungs)", "dtick": 1 if epochs <= 20 else None}
    return _figure(traces, xaxis=across, yaxis={"title": value_label(sweep)}, shapes=shapes)


def parallel_figure(sweep: SweepConfig, records: Sequence[Record]) -> Figure | None:
    """Every trial as a line through its parameters to its value."""
    import plotly.graph_objects as go

    told = [record for record in records if record.epochs]
    if len(told) < 2:
        return None
    dimensions = [_dimension(sweep, name, told) for name in sweep.space]
    reached = [float(len(record.epochs)) for record in told]
    axis = _Axis(sweep, [last_value(record) for record in told])
    values = axis.shown([last_value(record) for record in told])
    dimensions.append({"label": "epochs", "values": reached, "range": [0, max(reached)]})
    dimensions.append({"label": sweep.objectives[0].metric, "values": values, "tickformat": ".3f", **axis.ticks})
    # Pale to strong; the last axis says which value a shade is.
    line = {
        "color": values,
        "colorscale": [[0.0, "#d3dae1"], [0.5, "#7fb3a0"], [1.0, _BEST]],
        "showscale": False,
        "reversescale": sweep.objectives[0].mode == "min",
    }
    trace = go.Parcoords(line=line, dimensions=dimensions, labelangle=-12, labelside="top")
    made = _figure([trace], height=420)
    made["layout"]["margin"] = {"l": 72, "r": 48, "t": 96, "b": 32}
    return made


def _dimension(sweep: SweepConfig, name: str, records: Sequence[Record]) -> dict[str, Any]:
    """One axis: numbers as they are searched, choices by their place, "–" for what does not apply."""
    parameter, label = sweep.space[name], short(sweep, name)
    absent = any(name not in record.params for record in records)
    if parameter.choice is not None:
        places = {json.dumps(value): float(i) for i, value in enumerate(parameter.choice)}
        values = [places[json.dumps(r.params[name])] if name in r.params else -1.0 for r in records]
        ticks, texts = list(places.values()), [text.strip('"') for text in places]
        low, high = 0.0, float(len(places) - 1)
    else:
        low, high = (analysis.scaled(parameter, end) for end in parameter.bounds)
        values = [analysis.scaled(parameter, r.params[name]) if name in r.params else low for r in records]
        ticks, texts = _ticks(parameter)
    if absent:
        low -= 0.12 * (high - low)
        values = [v if name in r.params else low for v, r in zip(values, records, strict=True)]
        ticks, texts = [low, *ticks], ["–", *texts]
    return {"label": label, "values": values, "range": [low, high], "tickvals": ticks, "ticktext": texts}


def _ticks(parameter: Parameter) -> tuple[list[float], list[str]]:
    low, high = (analysis.scaled(parameter, end) for end in parameter.bounds)
    places = [low + (high - low) * i / 4 for i in range(5)]
    shown = [10**place if parameter.kind.startswith("log") else place for place in places]
    return places, [f"{value:.3g}" for value in shown]


def importance_figure(sweep: SweepConfig, records: Sequence[Record]) -> Figure | None:
    """Which parameters explain the differences between trials."""
    import plotly.graph_objects as go

    found = analysis.importance(sweep, records)
    if found is None:
        return None
    rows = found[1][::-1]
    shares = [row.share for row in rows]
    bar = go.Bar(
        x=shares, y=[short(sweep, row.name) for row in rows], orientation="h",
        marker={"color": [COLOURS[STOPPED] if row.name == analysis.NOISE else COLOURS[FINISHED] for row in rows]},
        error_x={
            "type": "data", "symmetric": False, "color": _INK, "thickness": 1.2,
            "array": [max(0.0, row.high - row.share) for row in rows],
            "arrayminus": [max(0.0, row.share - row.low) for row in rows],
        },
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
    )  # fmt: skip
    made = _figure([bar], height=120 + 34 * len(rows), xaxis={"title": "share of variance", "rangemode": "tozero"})
    made["layout"]["margin"]["l"] = 190
    made["epoch"] = found[0]
    return made


def slices_figure(sweep: SweepConfig, records: Sequence[Record]) -> Figure | None:
    """The value over each parameter."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    told = [record for record in records if record.epochs]
    if not told:
        return None
    axis = _Axis(sweep, [last_value(record) for record in told])
    columns = min(3, len(sweep.space))
    lines = -(-len(sweep.space) // columns)
    grid = make_subplots(lines, columns, shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.22 / lines)
    for i, (name, parameter) in enumerate(sweep.space.items()):
        there = [record for record in told if name in record.params]
        texts = [f"trial {r.name} ({r.status}, {len(r.epochs)} epochs)" for r in there]
        shown = [r.params[name] if parameter.choice is None else json.dumps(r.params[name]).strip('"') for r in there]
        values = [last_value(r) for r in there]
        marker = {"color": [COLOURS[r.status] for r in there], "size": 8, "symbol": axis.symbols(values)}
        trace = go.Scatter(
            x=shown, y=axis.shown(values), mode="markers", showlegend=False, text=texts, customdata=values,
            cliponaxis=False,
            marker={**marker, "line": {"color": "white", "width": 0.6}},
            hovertemplate="%{text}<br>%{x}: %{customdata:.4f}<extra></extra>",
        )  # fmt: skip
        row, column = i // columns + 1, i % columns + 1
        grid.add_trace(trace, row, column)
        grid.update_xaxes(**_axis(parameter), title={"text": short(sweep, name), "standoff": 6}, row=row, col=column)
        if column == 1:
            grid.update_yaxes(title=value_label(sweep), row=row, col=column)
    made = _figure([], height=90 + 230 * lines)
    own = json.loads(grid.to_json())
    layout = {**own["layout"], **{k: v for k, v in made["layout"].items() if k not in ("xaxis", "yaxis")}}
    return {"data": own["data"], "layout": layout}


def _axis(parameter: Parameter) -> dict[str, Any]:
    """A parameter's axis over its whole range."""
    if parameter.choice is not None:
        texts = [json.dumps(value).strip('"') for value in parameter.choice]
        return {"type": "category", "categoryorder": "array", "categoryarray": texts, "range": [-0.5, len(texts) - 0.5]}
    low, high = (analysis.scaled(parameter, end) for end in parameter.bounds)
    space = 0.05 * (high - low)
    found: dict[str, Any] = {"range": [low - space, high + space]}
    if not parameter.kind.startswith("log"):
        return found
    ticks = [m * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for m in (1, 3)]
    shown = [tick for tick in ticks if low - space <= math.log10(tick) <= high + space]
    return {**found, "type": "log", "tickvals": shown, "ticktext": [f"{tick:.3g}" for tick in shown]}


def pareto_figure(sweep: SweepConfig, records: Sequence[Record]) -> Figure | None:
    """The first two objectives against each other, and the trials that nothing beats in both."""
    import plotly.graph_objects as go

    if len(sweep.objectives) < 2:
        return None
    first, second = sweep.objectives[:2]
    done = [r for r in analysis.finished(records) if None not in (r.objective(first), r.objective(second))]
    if not done:
        return None
    front = sorted(pareto(list(done), [first, second]), key=lambda r: r.objective(first) or 0.0)
    marker = {"color": COLOURS[FINISHED], "size": 8}
    step = "vh" if first.mode == "max" else "hv"  # along what is within reach
    every = go.Scatter(
        x=[r.objective(first) for r in done], y=[r.objective(second) for r in done], mode="markers", marker=marker,
        name="a finished trial", text=[f"trial {r.name}" for r in done],
        hovertemplate="%{text}: %{x:.4f}, %{y:.4f}<extra></extra>",
    )  # fmt: skip
    line = go.Scatter(
        x=[r.objective(first) for r in front], y=[r.objective(second) for r in front], mode="lines+markers+text",
        name="Pareto front", text=[r.name for r in front], textposition="top center",
        line={"color": _BEST, "width": 2, "shape": step}, marker={"size": 10}, hoverinfo="skip",
    )  # fmt: skip
    better = {"max": "more is better", "min": "less is better"}
    return _figure(
        [every, line],
        xaxis={"title": f"{first.metric} ({better[first.mode]})"},
        yaxis={"title": f"{second.metric} ({better[second.mode]})"},
    )


def short(sweep: SweepConfig, name: str) -> str:
    """A parameter's name without the stage that all share."""
    return name.removeprefix(f"stages.{sweep.stage}.")


def value_label(sweep: SweepConfig) -> str:
    """The axis of values."""
    return f"{sweep.objectives[0].metric}, validation"


def last_value(record: Record) -> float:
    """Where a trial stands, or stood when it ended."""
    return record.epochs[-1].value
