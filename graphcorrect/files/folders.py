"""Folders of files that belong together by name: every entry is taken, or named as a fault, or named as left out.

A file's name is its path below its folder without the ending, so that `city/frame_7.npy` of the predictions belongs to
`city/frame_7.png` of the images.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.faults import looks_like, words

COMPANIONS = ("thumbs.db", "desktop.ini", "ehthumbs.db")  # of a file system, beside hidden files
JUNK = ("thumbs.db", "desktop.ini", ".ds_store")  # of file managers, in archives and lists


class Fault(NamedTuple):
    """What is wrong, and with the file of which name; None: with the folder."""

    name: str | None
    text: str


class Folder:
    """The files of a folder by name.

    Hidden files and folders, among them a Mac's `._` files, are not there for anybody. Links are followed.

    Attributes:
        files: by name; é is one name, whether a system writes it as one character or as two.
        faults: a name that two files share, a broken link, a folder where a file is expected or that cannot be opened.
        left_out: files with another ending.
    """

    def __init__(self, folder: Path, endings: Iterable[str]) -> None:
        self.folder, self.endings = folder, tuple(endings)
        self.files: dict[str, Path] = {}
        self.faults: list[Fault] = []
        self.left_out: list[Path] = []
        for path in self._entries():
            name = name_below(folder, path)
            if path.suffix.lower() not in self.endings:
                self.left_out.append(path)
            elif not path.is_file():
                self.faults.append(Fault(name, f"{path}: {looks_like(path)}"))
            elif name in self.files:
                self.faults.append(Fault(name, f"{path}: {self.files[name].name} has the same name"))
            else:
                self.files[name] = path

    def _entries(self) -> list[Path]:
        """All files, and what looks like one by its ending and is none."""
        found: list[Path] = []
        seen: set[str] = set()  # a link may lead back to where it is
        for place, folders, files in os.walk(self.folder, followlinks=True, onerror=self._cannot_open):
            here = os.path.realpath(place)
            if here in seen:
                folders.clear()
                continue
            seen.add(here)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            found += [Path(place) / name for name in files if not is_hidden(name)]
            named_as_files = [Path(place) / name for name in folders if Path(name).suffix.lower() in self.endings]
            found += [path for path in named_as_files if not _holds_files(path)]
        return sorted(found)

    def _cannot_open(self, error: OSError) -> None:
        self.faults.append(Fault(None, f"{error.filename}: cannot be opened ({words(error)})"))

    def faults_of(self, names: Collection[str] | None = None) -> list[str]:
        """A line each; those of the folder and of the given names, None: of all."""
        return [fault.text for fault in self.faults if names is None or fault.name is None or fault.name in names]

    def say_what_is_left_out(self) -> None:
        """One line on the screen, if there is anything."""
        if self.left_out:
            names = ", ".join(path.relative_to(self.folder).as_posix() for path in self.left_out[:5])
            more = ", ..." if len(self.left_out) > 5 else ""
            print(
                f"note: {len(self.left_out)} file(s) in {self.folder} end in none of {', '.join(self.endings)} and are "
                f"left out: {names}{more}",
                file=sys.stderr,
            )


def name_below(folder: Path, path: Path) -> str:
    """A file's name: its path below the folder without the ending, composed characters."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def is_hidden(name: str) -> bool:
    """Whether a file is for no reader: a dot before its name, or one of a file manager's."""
    return name.startswith(".") or name.lower() in COMPANIONS


def is_junk(name: str) -> bool:
    """Whether a file is none of the user's: macOS's `._NAME` and `.DS_Store`, Windows' Thumbs.db."""
    return name.startswith("._") or name.lower() in JUNK


def without(name: str, endings: tuple[str, ...]) -> str:
    """A name without its ending, if that is one of `endings` in any case."""
    ending = next((ending for ending in endings if name.lower().endswith(ending) and len(name) > len(ending)), "")
    return name[: len(name) - len(ending)]


def _holds_files(folder: Path) -> bool:
    """Whether there is anything in it: then it is a folder whose name has a dot, and what it holds counts."""
    try:
        return any(not is_hidden(entry) for entry in os.listdir(folder))
    except OSError:
        return False
