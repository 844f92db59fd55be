"""What a neighbor search is asked for, as the rule and every kernel take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Search(NamedTuple):
    """A call: the keys of largest inner product for each query, whose answer is similarity and index (B, N, k).

    Attributes:
        queries: (B, N, D).
        keys: (B, M, D); None for the queries.
        key_mask: (B, M) bool, which keys may be found; None for all.
        num_neighbors: k.
        exclude_self: query i does not find key i.
        normalize: rows are made unit rows first.
        backend: as asked for, as are `scoring` and `memory_budget`.
        prepared: the keys quantized, which are then compared as they are; or nothing.
    """

    queries: Tensor
    keys: Tensor | None = None
    key_mask: Tensor | None = None
    num_neighbors: int = 20
    exclude_self: bool = True
    normalize: bool = True
    backend: str = "auto"
    scoring: str = "auto"
    memory_budget: int = 2**24
    prepared: Sequence[Tensor] = ()

    @property
    def num_keys(self) -> int:
        """M."""
        return (self.queries if self.keys is None else self.keys).shape[-2]

    def answer(self) -> tuple[Tensor, Tensor]:
        """Room for similarity, float32 or better, and index (B, N, k)."""
        shape = (*self.queries.shape[:2], self.num_neighbors)
        dtype, device = torch.promote_types(self.queries.dtype, torch.float32), self.queries.device
        return torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=torch.int64, device=device)

    def asks_for(self, *backends: str) -> str | None:
        """None where the call names one of these backends, or a reason against them where it names another."""
        return None if self.backend in backends else f'backend="{self.backend}" is asked for'
