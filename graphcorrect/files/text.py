"""Text files as people write them: whatever encoding, ends of lines and marks their editor has left.

Of YAML plain values only, so that opening a file runs no code of whoever wrote it.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# The marks of UTF-32 begin with those of UTF-16, and so come first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


def read_text(path: Path) -> str:
    """A file's text; the system's own encoding does not matter, and what is no text, say a picture, is refused."""
    content = Path(path).read_bytes()
    try:
        text = content.decode(encoding_of(content), "strict")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("\ufeff", "").rstrip("\x1a")  # marks, also of files that were joined; DOS's end of a file
    if CONTROL.search(text):
        raise ValueError(f"{path}: expected a text file, got something else (it holds control characters)")
    return text


def encoding_of(content: bytes) -> str:
    """The encoding of a text: that of its mark, else UTF-16 where every other byte is 0, else UTF-8, else Windows'."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    for encoding, zeros in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        if zeros.count(0) > 0.2 * len(zeros):
            return encoding
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def read_lines(path: Path, comment: str | None = "#") -> list[str]:
    """The lines of a file without the blanks around them; empty ones and those that begin with `comment` left out."""
    return lines_of(read_text(path), comment)


def lines_of(text: str, comment: str | None = "#") -> list[str]:
    """The same of a text."""
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", text))
    return [line for line in lines if line and (comment is None or not f"{line} ".startswith(comment))]


def repeated(values: list[T]) -> list[T]:
    """What stands more than once, in order."""
    return sorted({value for value in values if values.count(value) > 1})  # type: ignore[type-var]


def few(names: list[str], most: int = 8) -> str:
    """The first of many names, for a message."""
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def load_yaml(path: Path) -> Any:
    """What a YAML file holds."""
    return _yaml().safe_load(read_text(path))


def dump_yaml(content: Any) -> bytes:
    """Plain values as YAML, in the order that they have."""
    text: str = _yaml().safe_dump(content, sort_keys=False, allow_unicode=True)
    return text.encode()


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("YAML files need PyYAML: pip install pyyaml") from error
    return yaml
