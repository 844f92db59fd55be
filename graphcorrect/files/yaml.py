"""YAML: plain values only, so that opening a file runs no code of whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphcorrect.files.text import read_text


def load_yaml(path: Path) -> Any:
    """What a file holds.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: it is no text; of PyYAML: it is no YAML.
    """
    return _yaml().safe_load(read_text(path))


def dump_yaml(content: Any) -> bytes:
    """Plain values in the order that they have.

    Raises:
        ImportError: PyYAML is not installed.
    """
    text: str = _yaml().safe_dump(content, sort_keys=False, allow_unicode=True)
    return text.encode()


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('YAML files need PyYAML: pip install "graphcorrect[cli]"') from error
    return yaml
