"""Files that are never half a file: readers see the old one or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes; see :func:`replace`."""
    replace(path, lambda file: file.write(content))


def replace(path: Path, write: Callable[[Any], Any]) -> None:
    """Write beside `path`, wait for the disk, and move it there; a failure leaves `path` as it was.

    Raises:
        OSError: the file could not be written, say because the disk is full; the message says what is still there.
        KeyboardInterrupt: as it came, whatever a library made of it on its way.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            sync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        interrupt = _interrupt_behind(error)
        if interrupt is not None:
            raise interrupt from None
        if not isinstance(error, (OSError, RuntimeError)):  # torch says RuntimeError when the file below it fails
            raise
        kept = "what it held before is still there" if os.path.lexists(path) else "there was no such file before"
        raise OSError(f"could not save {path}: {error}; {kept}") from error
    _sync_folder(path.parent)


def sync(number: int) -> None:
    """Wait for the disk, where the file's system can say when it is done."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF):
            raise


def _sync_folder(folder: Path) -> None:
    """The new name must survive a power cut too. Windows and some drives have no such thing; the file is there."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Ctrl-C in the middle of `torch.save` comes out as an error of its writer, which closes a file that is cut off."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
