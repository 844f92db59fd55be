"""Types and ranges of a recipe's keys: what a value must be, and how an error says so."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal


def ranged(default: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> Any:
    """A field whose number, or each of whose numbers, lies in [low, high] and above `above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def is_within(value: Any, limits: Mapping[str, float]) -> bool:
    """Whether a number, or each of several, lies in the range of its field; None lies in every range."""
    numbers = value if isinstance(value, tuple) else (value,)
    return not limits or all(
        number is None or (limits["low"] <= number <= limits["high"] and number > limits["above"]) for number in numbers
    )


def converted(value: Any, wanted: Any) -> Any:
    """`value` as the annotation `wanted` has it; TypeError if it is something else."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return converted(value, next(option for option in options if option is not type(None)))
    if origin is Literal:
        if value in options and not isinstance(value, bool):
            return value
    elif origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        endless = options[-1] is Ellipsis
        if items and (endless or len(items) == len(options)):
            return tuple(converted(item, options[0]) for item in items)  # all our tuples are of one type
    elif wanted is float and not isinstance(value, bool):
        if isinstance(value, str):  # YAML 1.1 reads 1e-3, without a point, as a string
            try:
                value = float(value)
            except ValueError:
                raise TypeError from None
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    elif wanted is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    elif type(value) is wanted:
        return value
    raise TypeError


def words(wanted: Any) -> str:
    """An annotation as a person would say it."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if option is type(None) else words(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        if options[-1] is Ellipsis:
            return f"a list, each entry {words(options[0])}"
        return f"a list of {len(options)}, each {words(options[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[wanted]


def range_words(limits: Mapping[str, float]) -> str:
    low, high, above = limits["low"], limits["high"], limits["above"]
    if high < math.inf:
        return f"in {'(' if above > -math.inf else '['}{above if above > -math.inf else low}, {high}]"
    return f"above {above}" if above > -math.inf else f"to be at least {low}"
