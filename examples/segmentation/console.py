"""What is printed must not stop a run: nobody may be reading any more, or the console may lack a letter."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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
