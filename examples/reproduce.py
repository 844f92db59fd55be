"""The paper's tables, row by row: list them, run them, collect what is finished beside the paper's figures.

    python examples/reproduce.py                                                  # every row, its recipe, its status
    python examples/reproduce.py --run cityscapes_v2_1_8 --cityscapes cityscapes --splits splits/cityscapes
    torchrun --nproc-per-node 2 examples/reproduce.py --run voc_v3plus_1_16 --voc VOC2012
    python examples/reproduce.py --run no_omega --cityscapes cityscapes --set schedule.epochs=20
    python examples/reproduce.py --collect                                        # table.md and sensitivity.png

A row's run goes to `runs/paper/ROW` (`--out`); one that was stopped goes on where it was. `--splits` is a folder of
published lists (`1_8/labeled.txt` or `372/labeled.txt`): UniMatch and U2PL chose different images of Cityscapes,
and the table says which file was read. Without it a split is drawn by the seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from segmentation import checkpoint, figures, report
from segmentation.command import Command, main, resumed, values_of
from segmentation.paper import Row, find_list, rows

FOLDERS = {"cityscapes": "cityscapes", "voc": "voc"}  # which option holds the data of a layout


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", nargs="+", default=[], metavar="ROW", help="rows to run, one after the other")
    add("--collect", action="store_true", help="write table.md and sensitivity.png from the runs that are there")
    add("--cityscapes", help="folder of Cityscapes")
    add("--voc", help="folder of VOC 2012, with SBD's masks")
    add("--splits", type=Path, help="folder of published lists of that data set")
    add(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any recipe key, laid over the row's"
    )
    add("--out", type=Path, default=Path("runs/paper"), help="where the rows' folders are")
    add("--dry-run", action="store_true", help="print each row's recipe and cost instead")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.run if name not in rows()]
    if unknown:
        parser.error(f"unknown row(s) {', '.join(unknown)}; without --run all are listed")
    return given


def run_row(row: Row, given: argparse.Namespace) -> None:
    """Train one row, or go on with it."""
    out, overrides = given.out / row.name, values_of(given.set)
    folder = getattr(given, FOLDERS[row.recipe().data.layout])
    if folder is not None:
        overrides = {"data.folder": folder} | overrides
    if given.splits is not None:
        overrides = {"data.labeled": str(find_list(row, given.splits))} | overrides
    if status(out)["state"] == "finished":
        print(f"{row.name}: is finished, {out / 'results.json'}; remove the folder to run it again")
    elif (out / "recipe.yaml").is_file() and not given.dry_run:
        main(Command(resumed(out, overrides), out, resume=True, dry_run=False))
    else:
        main(Command(row.recipe(overrides), out, resume=False, dry_run=given.dry_run))


def status(out: Path) -> dict[str, Any]:
    """How far a run is: state, step, and mIoU in percent of the methods that are done."""
    if not (out / "recipe.yaml").is_file():
        return {"state": "-", "found": {}}
    log = report.read_log(out / "log.jsonl") if (out / "log.jsonl").is_file() else []
    where = f"{log[-1]['method']}, step {log[-1]['step']}" if log else "begun"
    found, config = {}, {}
    if (out / "results.json").is_file():
        content = json.loads((out / "results.json").read_text())
        config = content["config"]
        found = {method: 100 * result["student_miou"] for method, result in content["methods"].items()}
    finished = bool(found) and set(found) == set(config["methods"])
    return {"state": "finished" if finished else where, "found": found, "config": config}


def show(given: argparse.Namespace) -> None:
    """All rows on the screen."""
    table = Table(title="mIoU in percent: the paper's, and ours where a run is done", title_justify="left")
    for name in ("row", "recipe", "what differs", "paper", "ours", "status"):
        table.add_column(name)
    title = ""
    for row in rows().values():
        if row.title != title:
            title = row.title
            table.add_section()
            table.add_row(f"[bold]{title}", *[""] * 5)
        now = status(given.out / row.name)
        differs = ", ".join(f"{key}={value}" for key, value in row.settings.items() if key != "methods")
        table.add_row(row.name, row.base, differs, _scores(row.published), _scores(now["found"]), now["state"])
    Console(width=None if Console().is_terminal else 160).print(table)


def collect(given: argparse.Namespace) -> None:
    """table.md: finished runs beside the paper's figures; sensitivity.png (Figs. 3, 6) where a setting was varied."""
    lines = ["| row | method | paper | ours | difference | steps | labeled images |", "|---|---|--:|--:|--:|--:|---|"]
    points: dict[str, list[tuple[float, float]]] = {}
    published: dict[str, list[tuple[float, float]]] = {}
    for row in rows().values():
        now = status(given.out / row.name)
        if row.axis is not None and row.published:
            place = 0.0 if row.name == "neighbors_0" else float(row.recipe().get(row.axis))
            published.setdefault(row.axis, []).append((place, next(iter(row.published.values()))))
        for method, ours in now["found"].items():
            config, paper = now["config"], row.published.get(method)
            beside = ("", "") if paper is None else (f"{paper:.2f}", f"{ours - paper:+.2f}")
            schedule = config["schedule"]
            length = f"{schedule['epochs']} epochs" if schedule["steps"] is None else schedule["steps"]
            labeled = config["data"]["labeled"]
            lines.append(f"| {row.name} | {method} | {beside[0]} | {ours:.2f} | {beside[1]} | {length} | {labeled} |")
            if row.axis is not None:
                place = 0.0 if method == "self_training" else float(row.recipe().get(row.axis))
                points.setdefault(row.axis, []).append((place, ours))
    if len(lines) == 2:
        raise ValueError(f"expected runs to collect below {given.out}, found none that has finished a method")
    checkpoint.write_atomically(given.out / "table.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    if points:
        figures.draw_sensitivity(points, published, given.out / "sensitivity.png")


def _scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{method} {value:.2f}" for method, value in scores.items())


if __name__ == "__main__":
    options = parse()
    try:
        for name in options.run:
            run_row(rows()[name], options)
        if options.collect:
            collect(options)
        elif not options.run:
            show(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
