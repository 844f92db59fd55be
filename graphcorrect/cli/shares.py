"""Several processes on one list: what each does, and what the first tells the others.

The processes that `torchrun` starts speak through its store alone, in a few words before and after the work: no tensor
crosses, so that a bank is filled on each as on one.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from typing import Any, TypeVar

from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=7)  # a share may take a night; who dies is the launcher's to notice


class Ranks:
    """The processes of one launch; on one process nothing here waits."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._store: Any = None
        if self.count > 1:
            self._store, _, _ = next(rendezvous("env://", self.rank, self.count, timeout=PATIENCE))
            self._store.set_timeout(PATIENCE)

    @property
    def is_first(self) -> bool:
        """Whether this process checks the input and writes the report."""
        return self.rank == 0

    def tell(self, key: str, content: Any) -> None:
        """Says something to whoever asks for it."""
        if self._store is not None:
            self._store.set(key, json.dumps(content))

    def ask(self, key: str) -> Any:
        """Waits for what another process says."""
        return json.loads(self._store.get(key))

    def finish(self) -> None:
        """The first waits for all others, and they for it to have seen them, since the store ends with the first."""
        if self._store is None:
            return
        if self.is_first:
            for rank in range(1, self.count):
                self.ask(f"done {rank}")
                self.tell(f"seen {rank}", True)
        else:
            self.tell(f"done {self.rank}", True)
            self.ask(f"seen {self.rank}")


def share_of(items: Sequence[T], share: tuple[int, int]) -> list[T]:
    """Every `count`-th item, from the `number`-th on."""
    number, count = share
    return list(items[number::count])
