"""Every figure from made-up data, to look at: `python -m tests.monitoring.look FOLDER [--safe] [--dpi N]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from embervlm.monitoring.data import FigureStore
from embervlm.monitoring.gallery import Options, draw_run
from embervlm.monitoring.stage_visualizations import CrossStageVisualizer
from tests.monitoring.samples import SAMPLES, stage_metrics


def main() -> None:
    """Draw them all and print what each took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--safe", action="store_true")
    parser.add_argument("--dpi", type=int, default=80)
    parser.add_argument("--vector", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    store = FigureStore(args.folder)
    for make in SAMPLES.values():
        store.write(make())
    report = draw_run(args.folder, Options(args.dpi, args.safe, args.vector), args.workers)
    for outcome in report.outcomes:
        print(f"{outcome.seconds:6.1f} s  {outcome.home}/{outcome.name}  {outcome.reason or outcome.finding}")
    cross = CrossStageVisualizer(args.folder / "figures", dpi=args.dpi, vector=False)
    cross.plot_stage_progression(stage_metrics())
    cross.plot_training_summary(stage_metrics())


if __name__ == "__main__":
    main()
