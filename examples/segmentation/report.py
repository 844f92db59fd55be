"""What a run leaves behind: a log of JSON lines, checkpoints that are never half a file, results, and one table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


class Log:
    """Appends one JSON object a line to `path`; a run that is killed keeps every line so far. None: writes nothing."""

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            path.write_text("")

    def write(self, **entry: Any) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def save_atomically(content: Any, path: Path) -> None:
    """Save with `torch.save` beside `path`, then move it there: readers see the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def write_atomically(path: Path, content: bytes) -> None:
    """The same for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def save_results(results: dict, path: Path) -> None:
    """The same for a JSON file."""
    write_atomically(path, (json.dumps(results, indent=2) + "\n").encode())


def print_table(results: dict[str, dict], title: str) -> None:
    """One line a method; mIoU in percent. Every number of the table is in results.json too."""
    table = Table(title=title, title_justify="left")
    for name in ("method", "mIoU test", "teacher", "pseudo-labels", "corrected", "change", "fixed", "broken", "ratio"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_column("seconds", justify="right")
    for method, result in results.items():
        before, after = result["pseudo_labels"]["before"]["miou"], result["pseudo_labels"]["corrected"]
        table.add_row(
            method,
            f"{100 * result['student_miou']:.2f}",
            f"{100 * result['teacher_miou']:.2f}",
            f"{100 * before:.2f}",
            f"{100 * after['miou']:.2f}" + ("" if result["refiner_trained"] else " *"),
            f"{100 * (after['miou'] - before):+.2f}",
            f"{after['fixed']:,}",
            f"{after['broken']:,}",
            f"{after['fixed'] / max(1, after['broken']):.2f}",
            f"{result['seconds']:.0f}",
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print(
        "mIoU test: the student's plain head; teacher: its running average (EMA). pseudo-labels: the teacher's, on the "
        "unlabeled training images, against their hidden true labels; corrected: by the graphs; fixed, broken: pixels."
    )
    if not all(result["refiner_trained"] for result in results.values()):
        console.print("* this method trains no refiner: what a freshly built one makes of its teacher's labels.")
