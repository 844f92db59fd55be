"""The bank of a corrector: what a preset means, and how many anchors are kept where nobody said."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.ops.kernels import faiss

Preset = Literal["quality", "fast"]
KEY_DIMS = {"quality": None, "fast": 128}
MAX_ANCHORS = 10_000  # of a class
MAX_BYTES = 2**30  # of a bank whose capacity nobody chose
# As good as classes alike beforehand, at strength 1, where classes are many, and better where one has nearly all pixels
PRIOR: dict[str, Any] = {"balance": None, "strength": 1.2}


def index_of(preset: Preset, place: Tensor) -> Literal["flat", "ivf"]:
    """How a bank on the device of `place` is searched: approximately where that is asked for and faiss serves."""
    return "ivf" if preset == "fast" and faiss.serves(place) else "flat"


def bank_of(preset: Preset, num_classes: int, width: int, place: Tensor, **settings: Any) -> AnchorBank:
    """An empty bank of keys of `width` entries on the device of `place`; `settings` of :class:`AnchorBank` go first.

    Each rank fills its own: people fit a corrector on one of them as well as on all.
    """
    capacity = max(1, min(MAX_ANCHORS, MAX_BYTES // (4 * width * num_classes)))
    chosen: dict[str, Any] = {"key_dim": KEY_DIMS[preset], "index": index_of(preset, place)}
    chosen |= {"capacity_per_class": capacity, "synchronize": False, **PRIOR, **settings}
    if chosen["key_dim"] is not None:
        chosen["key_dim"] = min(chosen["key_dim"], width)
    return AnchorBank(num_classes, width, **chosen).to(place)
