"""Labels that are missing, in whatever guise a table holds them: NaN, None, pandas' NA and NaT, masked entries."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphcorrect import _checks


def split_labels(y: ArrayLike, missing_label: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels (N,) as an array, and which of them are given, (N,) bool; labels of other shapes come back as they are.

    Where `missing_label` is NaN or NA, every guise of nothing is missing; where it is a value, that value is. Its text
    counts too: NumPy writes -1 among names as "-1", and NaN as "nan".

    Raises:
        ValueError: a label is nothing and `missing_label` does not say so, or labels are numbers and text mixed.
    """
    labels = _as_array(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        return labels, np.ones(labels.shape[:1], dtype=bool)
    nothing = _where(labels, is_nothing)
    if nothing.any() and not (missing_label is not None and is_nothing(missing_label)):
        raise ValueError(
            f"expected `y` with a label in every row, or `missing_label=numpy.nan`, got {int(nothing.sum())} rows of "
            f"NaN, None or the like, and `missing_label={missing_label!r}`"
        )
    if missing_label is None:
        return _of_one_kind(labels, ~nothing), ~nothing
    given = ~(nothing | _where(labels, lambda label: _stands_for(label, missing_label)))
    return _of_one_kind(labels, given), given


def _as_array(y: ArrayLike) -> NDArray[Any]:
    """An array of what was given: a list of names and NaN stays one of objects."""
    if isinstance(y, np.ma.MaskedArray):
        labels = np.ma.getdata(y).astype(object)
        labels[np.ma.getmaskarray(y)] = None
        return labels
    if isinstance(y, (list, tuple)) and any(isinstance(label, str) for label in y):
        return np.asarray(y, dtype=object)
    return np.asarray(y)


def _where(labels: NDArray[Any], is_so: Callable[[Any], bool]) -> NDArray[np.bool_]:
    return np.fromiter((is_so(label) for label in labels), dtype=bool, count=len(labels))


def _stands_for(label: Any, missing_label: Any) -> bool:
    """Whether a label is the missing one, or a text of it."""
    if isinstance(label, str) != isinstance(missing_label, str):
        return str(label) == str(missing_label)
    try:
        return bool(label == missing_label)
    except (TypeError, ValueError):
        return False


def is_nothing(value: Any) -> bool:
    """Whether a value stands for no value: None, a float or a date that is not itself, pandas' NA."""
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # an array, a value that cannot be compared
        return False


def dense_rows(name: str, values: Any) -> Any:
    """A table as scikit-learn takes it; a tensor becomes an array, and masked entries of `X` are refused, not read."""
    if isinstance(values, np.ma.MaskedArray) and name == "X":
        if np.ma.getmaskarray(values).any():
            masked = int(np.ma.getmaskarray(values).sum())
            raise ValueError(
                f"expected `{name}` without missing values, got {masked} masked entries; impute them first"
            )
        return np.ma.getdata(values)
    if hasattr(values, "detach"):  # a tensor
        _checks.is_tensor(name, values)
        return values.detach().cpu().numpy()
    return values


def _of_one_kind(labels: NDArray[Any], given: NDArray[np.bool_]) -> NDArray[Any]:
    """Objects whose given ones are all numbers, or all texts, as an array of that type, with any value in the holes.

    Raises:
        ValueError: they are of several kinds, which no order of classes can hold.
    """
    if labels.dtype != object or not given.any():
        return labels
    kept = list(labels[given])
    examples = {"text" if isinstance(label, str) else "numbers": label for label in kept if np.isscalar(label)}
    if len(examples) > 1:
        shown = " and ".join(f"{kind} such as {label!r}" for kind, label in sorted(examples.items()))
        raise ValueError(f"expected `y` with labels of one kind, all numbers or all text, got {shown}")
    if not all(np.isscalar(label) for label in kept):
        return labels
    values = np.asarray(kept)
    whole = np.full(len(labels), values[0], dtype=values.dtype)
    whole[given] = values
    return whole
