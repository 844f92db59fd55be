"""The settings of a module, as `repr` prints them."""

from collections.abc import Callable
from typing import Any


def printed(names: str) -> Callable[[Any], str]:
    """The `extra_repr` of a module that prints these of its attributes, separated by spaces."""

    def extra_repr(self: Any) -> str:
        """The settings that `repr` prints."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())

    return extra_repr
