"""Files and mistakes in words: whatever a library raises becomes one line that begins with the file's name.

Every script opens a file inside `reading(path)`, so that nobody is shown the path that an error took through the code.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graphcorrect.files import text

LONGEST = 300  # characters of what another library says
MOST_SHOWN = 50  # faults of one list


class FileFault(ValueError):
    """A file that could not be used; the message begins with its path.

    Example:
        >>> try:
        ...     read_label_map(Path("nowhere.txt"))
        ... except FileFault as fault:
        ...     print(str(fault).split("; ")[-1])
        is missing
    """


class UnreadableFile(ValueError):
    """A picture that is not what it should be; the message begins with its name.

    Example:
        >>> try:
        ...     read_image(Path("nowhere.png"))
        ... except UnreadableFile as fault:
        ...     print(fault)
        nowhere.png: missing
    """

    def __init__(self, message: str):
        # A loading process hands on its whole trace as the message; a person needs its last line.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())

    @property
    def reason(self) -> str:
        """What is wrong with the file, without its name, for whoever names it himself."""
        said = str(self).partition(": ")[2]
        return said.removeprefix("unreadable (").removesuffix(")") if said.startswith("unreadable (") else said


@contextlib.contextmanager
def reading(path: Path | str, expected: str = "", *, folder: bool = False) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `FileFault` of `path`: what the file looks like, or what the library said.

    Args:
        path: the file that is opened inside.
        expected: what it should be, such as "an image"; the file is then looked at before anything opens it. Empty
            says nothing of it, and spares the look where files are many.
        folder: whether it may be a folder.
    """
    wanted = f"expected {expected}; " if expected else ""
    if expected and os.path.isfile(path) and (fault := looks_like(Path(path))):
        raise FileFault(f"{path}: {wanted}{fault}")
    try:
        yield
    except (FileFault, ImportError):  # named already; no fault of the file
        raise
    except Exception as error:  # Pillow, numpy, torch, SciPy and YAML have types of their own for each kind of fault
        said = words(error).removeprefix(f"{path}: ")
        if said.startswith("unreadable (") and said.endswith(")"):  # as pictures are said to be
            said = said.removeprefix("unreadable (").removesuffix(")")
        seen = None if folder and os.path.isdir(path) else looks_like(Path(path))
        raise FileFault(f"{path}: {wanted}{seen or said}") from error


def tried(read: Callable[..., Any], path: Path, *arguments: Any) -> tuple[Any, list[str]]:
    """What `read` makes of a file; or None, and the fault that it found."""
    try:
        with reading(path):
            return read(path, *arguments), []
    except FileFault as fault:
        return None, [str(fault)]


def looks_like(path: Path) -> str | None:
    """Why nobody can read this file, as far as the file itself tells; None if it does not."""
    try:
        if path.is_symlink() and not path.exists():
            return f"is a link to {os.readlink(path)!r}, which is not there or leads back to it"
        if not path.exists():
            return "is missing"
        if path.is_dir():
            return "is a folder"
        if not path.is_file():
            return "is no regular file"
        if path.stat().st_size == 0:
            return "is empty"
        with path.open("rb") as file:
            head = file.read(512)
    except PermissionError:
        return "may not be read (permission denied)"
    except OSError as error:  # too many links, a name too long, a drive that is gone
        return words(error)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page (HTML), as a download leaves that was refused; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; run `git lfs pull`"
    return None


def words(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing that a reader could use."""
    if isinstance(error, MemoryError):
        return "is too large for the memory of this machine"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST else said[:LONGEST].rstrip() + " ..."
    if isinstance(error, KeyError):  # says the bare key
        return f"has no {said}"
    return said or type(error).__name__


def read_lines(path: Path) -> list[str]:
    """The lines of a text in any encoding, without blanks around them, empty ones and comments left out."""
    with reading(path, "text"):
        return text.read_lines(path)


def check_archive(path: Path) -> None:
    """Refuse a zip archive (`.npz`, torch's files) of which a part is damaged: torch itself compares no checksums."""
    with reading(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"is damaged: {damaged} does not have its checksum; copy or download it again")


def refuse(faults: list[str], of: str) -> None:
    """Raise one `ValueError` that lists every fault, if there are any."""
    if faults:
        more = f"\n  ... and {len(faults) - MOST_SHOWN} more" if len(faults) > MOST_SHOWN else ""
        listed = "\n  ".join(faults[:MOST_SHOWN])
        raise ValueError(f"{of} {len(faults)} fault(s):\n  {listed}{more}")


def check_writable(folder: Path) -> None:
    """Make the folder of results and write to it, before any work is done."""
    probe = folder / ".can_be_written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may probe, too
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        raise ValueError(
            f"expected --out to be a folder that can be written, got {str(folder)!r}: {words(error)}"
        ) from error


def as_bytes(content: str) -> bytes:
    """UTF-8; of a file's name that is none, the odd bytes in backslashes, so that no result is lost for a name."""
    return content.encode("utf-8", "backslashreplace")
