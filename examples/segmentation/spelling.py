"""The files of a folder by any spelling of their names: case, composed letters or not, `./`, backslashes, endings."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from functools import lru_cache
from pathlib import Path

from graphcorrect.files.folders import is_junk, without


class AmbiguousName(ValueError):
    """A name that may stand for several files."""


class Folder:
    """Finds files below `root` without asking the disk twice."""

    def __init__(self, root: Path):
        self.root = root
        self._listed: dict[str, tuple[dict[str, list[str]], dict[str, list[str]]]] = {}

    def find(self, name: str, endings: tuple[str, ...] = ()) -> Path | None:
        """The file of that name, spelled as it may be; without such a file one that has another of the `endings`.

        Raises:
            AmbiguousName: there are several, none of which is spelled exactly so.
        """
        *parents, last = clean(name).split("/")
        directory = str(self.root)
        for part in parents:
            found = self._match(directory, part, files=False)
            if not found:
                return None
            directory = found[0]
        found = self._match(directory, last, files=True)
        for stem in (last, without(last, endings)) if endings else ():
            if not found:
                found = [path for ending in endings for path in self._match(directory, stem + ending, files=True)]
                found = list(dict.fromkeys(found))
        if len(found) > 1:
            raise AmbiguousName(f"{name!r} may be {' or '.join(map(os.path.basename, found))} in {directory}")
        return Path(found[0]) if found else None

    def _match(self, directory: str, name: str, *, files: bool) -> list[str]:
        """The entry of exactly this name, else all whose names differ in case or composition only."""
        if directory not in self._listed:
            self._listed[directory] = _entries(directory)
        names = self._listed[directory][0 if files else 1].get(folded(name), [])
        exact = [entry for entry in names if entry == name or readable(entry) == name]
        return [os.path.join(directory, entry) for entry in exact or names]


def _entries(directory: str | Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Names of the files and of the folders in a folder, by what is left of them without case and composition."""
    files: dict[str, list[str]] = {}
    folders: dict[str, list[str]] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not is_junk(entry.name):
                    held = folders if entry.is_dir() else files
                    held.setdefault(folded(readable(entry.name)), []).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return files, folders


def pictures_in(directory: Path, endings: tuple[str, ...]) -> list[str]:
    """Names with one of the endings, in any case, in order; what file managers leave is left out.

    A folder of such a name is listed too: it stands in the place of a picture, and is not to be passed over.
    """
    names = sorted(name for part in _entries(directory) for held in part.values() for name in held)
    return [readable(name) for name in names if readable(name).lower().endswith(endings)]


def is_there(path: Path) -> bool:
    """Whether something has that name, be it what was expected or a link to nowhere: it is not to be left out."""
    return os.path.lexists(path)


def clean(name: str) -> str:
    r"""A path in a list as one below a folder: `/a/./b` and `a\b` as `a/b`."""
    return posixpath.normpath(name.replace("\\", "/").lstrip("/"))


def readable(name: str) -> str:
    """A name from the disk as text, also where the system's encoding cannot spell it."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def folded(name: str) -> str:
    """What is left of a name where case and composition do not count."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def identity(path: Path) -> str:
    """The same for two paths if they are one file: links are followed."""
    parent, name = os.path.split(path)
    place = os.path.join(_real(parent), name)
    return os.path.realpath(place) if os.path.islink(place) else os.path.normcase(place)


@lru_cache(maxsize=4096)
def _real(directory: str) -> str:
    return os.path.realpath(directory)
