"""What serves each operation here, and why nothing else does."""

from __future__ import annotations

import importlib
import pkgutil
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import _checks, ops
from graphcorrect.ops._dispatch import OPERATIONS


class Serving(NamedTuple):
    """What serves one operation.

    Attributes:
        name: of the implementation; "torch" is the definition in plain torch.
        refused: what would be preferred -> why it does not serve.

    Example:
        >>> serving = explain_backends()["neighbors"]
        >>> serving.name in serving.refused  # what serves was not refused
        False
    """

    name: str
    refused: dict[str, str]


class Backends(dict[str, Serving]):
    """Operation -> :class:`Serving`; prints as a table, under a title that says for which tensors.

    Example:
        >>> sorted(explain_backends())[:2]
        ['class factors', 'class product']
    """

    title = ""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [self.title]
        for operation, (name, refused) in self.items():
            lines.append(f"  {operation:<{width}}  {name}")
            lines += [f"  {'':<{width}}    not {other}: {reason}" for other, reason in refused.items()]
        return "\n".join(lines)


def explain_backends(features: Tensor | None = None) -> Backends:
    """Says which implementation of each operation serves such features, and why those before it do not.

    Nothing is computed. What you name yourself, such as `KNNAffinity(backend="faiss")`, is used or refused whatever
    this says; it tells of `"auto"`.

    Args:
        features: (..., N, D) floating point; values do not matter, shape, dtype and device do. None stands for (4096,
            256) in float32, on the GPU if there is one.

    Raises:
        TypeError: `features` is not floating point.
        ValueError: it has fewer than two dimensions.

    Example:
        >>> print(explain_backends(torch.randn(2, 100, 64)))  # doctest: +ELLIPSIS
        for float32 of shape (2, 100, 64) on cpu:
          ...
    """
    if features is None:
        features = torch.empty(4096, 256, device="cuda" if torch.cuda.is_available() else "cpu")
    _checks.floating("features", features)
    _checks.at_least_2d("features", features, "(..., N, D)")
    for file in pkgutil.iter_modules(ops.__path__):  # each registers its operation when it is imported
        if not (file.ispkg or file.name.startswith("_")):
            importlib.import_module(f"{ops.__name__}.{file.name}")
    dtype = str(features.dtype).removeprefix("torch.")
    found = Backends({name: Serving(*operation.explain(features)) for name, operation in OPERATIONS.items()})
    found.title = f"for {dtype} of shape {tuple(features.shape)} on {features.device}:"
    return found
