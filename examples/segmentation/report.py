"""What a run leaves behind to read: a log of JSON lines (and TensorBoard), results, and one table."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphcorrect.files.saving import sync, write_atomically


class Log:
    """Appends one JSON object a line to `path`; a run that is killed keeps every line so far. None: writes nothing.

    Args:
        path: the file, or None.
        keep: bytes of it to keep: 0 begins anew, and a resumed run cuts off what came after its checkpoint.
        tensorboard: a folder for TensorBoard's events, each method a run of its own there, or None.
        cut: method and step from which a resumed run replaces TensorBoard's events.
    """

    def __init__(
        self,
        path: Path | None,
        keep: int = 0,
        tensorboard: Path | None = None,
        cut: tuple[str, int] | None = None,
    ):
        self.path, self.tensorboard, self.cut, self.writers = path, tensorboard, cut, {}
        if path is not None:
            with path.open("ab") as file:
                file.truncate(min(keep, file.tell()))  # a longer one would be filled with zeros

    def write(self, **entry: Any) -> None:
        """Write one line; numbers also go to TensorBoard."""
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({key: _finite(value) for key, value in entry.items()}) + "\n")
        except OSError as error:  # a full disk does not say which file it had no room for
            raise OSError(f"could not write {self.path}: {error}") from error
        if self.tensorboard is not None:
            writer = self._writer(entry["method"])
            for name, value in entry.items():
                if isinstance(value, (int, float)) and name != "step":
                    writer.add_scalar(name, value, entry["step"])
            writer.flush()

    def _writer(self, method: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if method not in self.writers:
            step = self.cut[1] + 1 if self.cut is not None and self.cut[0] == method else None
            self.writers[method] = SummaryWriter(str(self.tensorboard / method), purge_step=step)
        return self.writers[method]

    def written(self) -> int:
        """Bytes of the log that have reached the disk."""
        if self.path is None:
            return 0
        with self.path.open("ab") as file:
            sync(file.fileno())
        return self.path.stat().st_size


def read_log(path: Path) -> list[dict]:
    """The entries of a log; a last line that a kill cut short is left out."""
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _finite(value: Any) -> Any:
    """JSON has no NaN: a class that no image shows is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_results(results: dict, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(_finite(results), indent=2) + "\n").encode())


def methods_done(path: Path) -> set[str]:
    """The methods of a results.json; none where there is no such thing."""
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["methods"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def notes(lines: list[str]) -> None:
    """Say what a person should know before the first step."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def score_of(results: dict[str, dict]) -> tuple[str, str]:
    """Key and name of the score by which a run compares its methods."""
    return ("dice", "Dice") if any("student_dice" in each for each in results.values()) else ("miou", "mIoU")


def print_deployed(results: dict[str, dict]) -> None:
    """A student as it would be used, one line a method: score in percent, milliseconds an image."""
    shown = {method: result["deployed"] for method, result in results.items() if "deployed" in result}
    if not shown:
        return
    key, score = score_of(results)
    table = Table(title=f"The same students in use: {score} test, milliseconds an image", title_justify="left")
    ways = list(next(iter(shown.values())))
    for name in ("method", *(part for way in ways for part in (way, "ms"))):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, found in shown.items():
        cells = (f"{100 * found[way][key]:.2f} {1e3 * found[way]['seconds_per_image']:.0f}".split() for way in ways)
        table.add_row(method, *(cell for pair in cells for cell in pair))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print(
        "plain: the student's head; corrected: labeled pixels and graphs asked at inference, as above; augmented: the "
        "mean over sizes 0.75, 1 and 1.25 and the mirrored image, where that is one of this world."
    )


def print_table(results: dict[str, dict], title: str) -> None:
    """One line a method; scores in percent. Every number of the table is in results.json too."""
    key, score = score_of(results)
    table = Table(title=title, title_justify="left")
    columns = ("teacher", "pseudo-labels", "corrected", "change", "fixed / broken", "ratio")
    for name in ("method", f"{score} test", *columns):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_column("seconds", justify="right")
    for method, result in results.items():
        before, after = result["pseudo_labels"]["before"][key], result["pseudo_labels"]["corrected"]
        table.add_row(
            method,
            f"{100 * result[f'student_{key}']:.2f}",
            f"{100 * result[f'teacher_{key}']:.2f}",
            f"{100 * before:.2f}",
            f"{100 * after[key]:.2f}" + ("" if result["refiner_trained"] else " *"),
            f"{100 * (after[key] - before):+.2f}",
            f"{after['fixed']:,} / {after['broken']:,}",
            f"{after['fixed'] / max(1, after['broken']):.2f}",
            f"{result['seconds']:.0f}",
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    means = "+".join(next(iter(results.values())).get("correct", ["graphs"])) if results else "graphs"
    console.print(
        f"{score} test: the student's plain head; teacher: its running average (EMA). pseudo-labels: the teacher's, "
        f"on the unlabeled training images, against their hidden true labels; corrected: by {means}; fixed, broken: "
        "pixels."
    )
    if not all(result["refiner_trained"] for result in results.values()):
        console.print("* this method trains no refiner: what a freshly built one makes of its teacher's labels.")
