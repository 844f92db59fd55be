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
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from segmentation import figures, report
from segmentation.command import Command, main, resumed, values_of
from segmentation.extras.paper import Row, find_list, rows

from graphcorrect.cli.console import in_words
from graphcorrect.files.faults import as_bytes, check_writable, reading, words
from graphcorrect.files.saving import write_atomically

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
    try:
        if _is_there(given.out) and not given.out.is_dir():
            raise ValueError("is no folder")
    except (OSError, ValueError) as error:
        parser.error(f"expected --out to be a folder, got {str(given.out)!r}: {words(error)}")
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
    elif has_begun(out) and not given.dry_run:
        main(Command(resumed(out, overrides), out, resume=True, dry_run=False))
    else:
        main(Command(row.recipe(overrides), out, resume=False, dry_run=given.dry_run))


def has_begun(out: Path) -> bool:
    """Whether a run has come to a step: one that found no data has left its recipe alone, and is begun anew."""
    log = out / "log.jsonl"
    return _is_there(out / "recipe.yaml") and (_is_there(out / "resume.pt") or (_is_there(log) and not _is_empty(log)))


def status(out: Path) -> dict[str, Any]:
    """How far a run is: state, step, and mIoU in percent of the methods that are done, with what the table says of it.

    Raises:
        ValueError: a file of the run is damaged; the message names it.
    """
    recipe, log, results = (out / name for name in ("recipe.yaml", "log.jsonl", "results.json"))
    if not _is_there(recipe):
        return {"state": "-", "found": {}}
    state = "begun"
    if _is_there(log) and not _is_empty(log):
        with reading(log, "the log of a run"):
            entries = report.read_log(log)
            state = f"{entries[-1]['method']}, step {entries[-1]['step']}" if entries else state
    if not _is_there(results):
        return {"state": state, "found": {}}
    with reading(results, "the results of a run"):
        content = json.loads(results.read_text(encoding="utf-8"))
        config, schedule = content["config"], content["config"]["schedule"]
        scores = {method: result["student_miou"] for method, result in content["methods"].items()}
        found = {method: math.nan if miou is None else 100 * float(miou) for method, miou in scores.items()}
        length = f"{schedule['epochs']} epochs" if schedule["steps"] is None else schedule["steps"]
        is_finished = bool(found) and set(found) == set(config["methods"])
        return {
            "state": "finished" if is_finished else state,
            "found": found,
            "length": length,
            "labeled": config["data"]["labeled"],
        }


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _is_there(path: Path) -> bool:
    """Whether there is a file, or a link that should lead to one."""
    return path.exists() or path.is_symlink()


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
    waiting = []
    for row in rows().values():
        now = status(given.out / row.name)
        if now["state"] != "-" and not now["found"]:
            waiting.append(row.name)
        if row.axis is not None and row.published:
            place = 0.0 if row.name == "neighbors_0" else float(row.recipe().get(row.axis))
            published.setdefault(row.axis, []).append((place, next(iter(row.published.values()))))
        for method, ours in now["found"].items():
            paper = row.published.get(method)
            beside = ("", "") if paper is None else (f"{paper:.2f}", f"{ours - paper:+.2f}")
            rest = f"{now['length']} | {now['labeled']}"
            lines.append(f"| {row.name} | {method} | {beside[0]} | {ours:.2f} | {beside[1]} | {rest} |")
            if row.axis is not None:
                place = 0.0 if method == "self_training" else float(row.recipe().get(row.axis))
                points.setdefault(row.axis, []).append((place, ours))
    if len(lines) == 2:
        raise ValueError(f"expected runs to collect below {given.out}, found none that has finished a method")
    write_atomically(given.out / "table.md", as_bytes("\n".join(lines) + "\n"))
    print("\n".join(lines))
    if waiting:
        print(f"note: begun, without a method that is done, and so not in the table: {', '.join(waiting)}")
    if points:
        figures.draw_sensitivity(points, published, given.out / "sensitivity.png")


def _scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{method} {value:.2f}" for method, value in scores.items())


def run(arguments: list[str] | None = None) -> None:
    """The command line; what went wrong is said without the path it took through the code."""
    with in_words():
        options = parse(arguments)
        if (options.run or options.collect) and not options.dry_run:
            check_writable(options.out)
        for name in options.run:
            run_row(rows()[name], options)
        if options.collect:
            collect(options)
        elif not options.run:
            show(options)


if __name__ == "__main__":
    run()
