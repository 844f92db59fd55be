"""What is printed must not stop a run: nobody may be reading any more, or the console may lack a letter."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from graphcorrect.files.faults import words

TRACE = "GRAPHCORRECT_TRACE"  # set, the whole trace is shown


class SteadyStream:
    """A stream that escapes what its encoding lacks, and drops what can't be written."""

    def __init__(self, stream: TextIO):
        self.stream, self.is_broken = stream, False

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError:  # a pipe that nobody reads, a full disk behind `> file`
            self.is_broken = True
        return len(text)

    def flush(self) -> None:
        """Flush if there is still somebody."""
        try:
            self.stream.flush()
        except OSError:
            self.is_broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Standard output and errors that never raise, also as a decorator."""
    before = sys.stdout, sys.stderr
    steady = [SteadyStream(stream) if stream is not None else None for stream in before]
    sys.stdout, sys.stderr = steady
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in steady:
            if stream is not None:
                stream.flush()
                if stream.is_broken:  # else Python itself fails when it flushes at its end
                    with contextlib.suppress(OSError, ValueError):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _noted(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a command says it."""
    print(f"note: {message}", file=sys.stderr)


def say_notes(notes: Iterable[str]) -> None:
    """What is no fault and may be a mistake, a line each."""
    for note in notes:
        _noted(note)


@contextlib.contextmanager
def in_words(
    *, interrupted: str = "interrupted", failed: str = "", note: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """End the program with one message for whatever is raised inside: 130 for Ctrl-C, else 1.

    `failed` is said first of an error that no check foresaw; `note` is called for a line to add, such as how to go on.
    """
    try:
        with steady_output(), warnings.catch_warnings():  # that a print fails must not cost the results of a night
            warnings.filterwarnings("default", "fit was given")
            warnings.showwarning = _noted
            yield
    except KeyboardInterrupt:
        said = f"{interrupted}{note()}"
        print(said, file=sys.stderr)
        stopped = SystemExit(said)
        stopped.code = 130  # as the shell says it
        raise stopped from None
    except Exception as error:
        if os.environ.get(TRACE):
            raise
        # A lost connection is one to another process of ours.
        if isinstance(error, (ValueError, OSError, ImportError)) and not isinstance(error, ConnectionError):
            sys.exit(f"error: {error}{note()}")  # what the user can mend
        if failed:
            print(f"{failed}{note()}", file=sys.stderr)
        sys.exit(f"error: {unforeseen(error)}")  # of the machine or the code


def unforeseen(error: Exception) -> str:
    """An error that no check foresaw, in one line, with where it was raised."""
    said = str(error)  # torch has a type of its own on a GPU, and a `RuntimeError` on a CPU
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        return f"out of memory ({words(error)}); try a smaller size or batch, or another device"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {words(error)} ({Path(last.filename).name}, line {last.lineno}); "
        f"{TRACE}=1 before the command shows the whole trace"
    )
