"""A folder of results: it can be written, it holds those of one command, and nothing of anybody else's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from graphcorrect.files.faults import check_writable, reading, words
from graphcorrect.files.saving import write_atomically

FILE = "settings.json"  # what the results depend on; its presence says whose the folder is


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, paths in full."""
    plain_settings: dict[str, Any] = json.loads(json.dumps(settings, default=lambda path: str(path.resolve())))
    return plain_settings


def check_apart(
    out: Path,
    written: tuple[str, ...],
    *,
    searched: dict[str, Path | None],
    others: dict[str, Path | None] | None = None,
    alone: bool = False,
) -> None:
    """Refuse a folder of results that lies among the inputs, or the inputs in it: one would take the other's place.

    Args:
        out: the folder of results.
        written: folders that are made in it, such as `masks`.
        searched: folders by option of which every file is an input; None is left out.
        others: further folders of inputs.
        alone: whether a new folder of results must hold no inputs elsewhere in it either.
    """
    given = {option: folder for option, folder in (searched | (others or {})).items() if folder is not None}
    for option, folder in given.items():
        inside = option in searched and out.resolve().is_relative_to(folder.resolve())
        over = [name for name in written if folder.resolve().is_relative_to((out / name).resolve())]
        if inside or over:
            taken = f", whose {over[0]} would be written over" if over else ""
            raise ValueError(f"expected --out outside {option}, got {out}{taken}")
    held = [option for option, folder in given.items() if folder.resolve().is_relative_to(out.resolve())]
    if alone and held and not is_ours(out):
        raise ValueError(f"expected --out to be a folder of its own, got {out}, which holds {', '.join(held)}")


def check_settings(out: Path, settings: dict[str, Any], written: tuple[str, ...], hint: str = "") -> None:
    """Refuse a folder with results of other settings, or with files of another origin under the names to be written."""
    path = out / FILE
    there = [name for name in written if os.path.exists(out / name)]  # before the settings, which others write first
    if not is_ours(out):
        if there:
            raise ValueError(
                f"expected --out to be new or a folder of such results, got {out}, which holds {', '.join(there)} of "
                "another origin"
            )
        return
    with reading(path, "the settings of earlier results"):
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [f"{key} {before.get(key)!r}" for key in settings if before.get(key) != settings[key]]
    if other:
        raise ValueError(
            f"expected --out to be new or of these settings{hint}, got {out}, whose {FILE} says {', '.join(other)}"
        )


def is_ours(out: Path) -> bool:
    """Whether the folder holds results already; one that cannot be opened is refused."""
    path = out / FILE
    try:
        path.lstat()
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ValueError(f"expected --out to be a folder, got {str(out)!r}: {words(error)}") from error


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Write what the results depend on, before the first of them; other processes may do the same at this moment."""
    check_writable(out)
    path, content = out / FILE, json.dumps(settings, indent=2).encode()
    try:
        write_atomically(path, content)
    except OSError:
        if not path.is_file() or path.read_bytes() != content:
            raise


def clear(out: Path, written: tuple[str, ...]) -> None:
    """Remove earlier results of ours, so that none of them stands among new ones."""
    for path in (out / name for name in written):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
