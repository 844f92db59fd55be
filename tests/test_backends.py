"""What serves each operation, and the reasons of what does not."""

import pytest
import torch

from graphcorrect import ops
from graphcorrect.backends import Serving, explain_backends
from graphcorrect.ops import _dispatch
from graphcorrect.ops._dispatch import Kernel, Operation, without


@pytest.fixture
def registered(monkeypatch):
    """Two operations alone: one with two kernels, of which the second takes float64, and one without any."""
    monkeypatch.setattr(ops, "__path__", [])
    kept = dict(_dispatch.OPERATIONS)
    _dispatch.OPERATIONS.clear()
    kernels = (
        Kernel("fast", lambda *tensors: "it is not installed", "fast", "run"),
        Kernel("wide", lambda x: None if x.dtype == torch.float64 else f"it takes no {x.dtype}", "wide", "run"),
    )
    Operation("rows", torch.clone, *kernels)
    Operation("sums", torch.sum)
    yield
    _dispatch.OPERATIONS.clear()
    _dispatch.OPERATIONS.update(kept)


@pytest.mark.usefixtures("registered")
def test_each_operation_says_what_serves_it_and_why_not_the_others():
    found = explain_backends(torch.zeros(2, 3, 4))
    assert dict(found) == {
        "rows": Serving("torch", {"fast": "it is not installed", "wide": "it takes no torch.float32"}),
        "sums": Serving("torch", {}),
    }
    found = explain_backends(torch.zeros(3, 4, dtype=torch.float64))
    assert found["rows"] == Serving("wide", {"fast": "it is not installed"})
    with without("wide"):
        ruled_out = explain_backends(torch.zeros(3, 4, dtype=torch.float64))["rows"]
    assert ruled_out == Serving("torch", {"fast": "it is not installed", "wide": "it is ruled out"})


@pytest.mark.usefixtures("registered")
def test_it_prints_a_table():
    assert str(explain_backends(torch.zeros(2, 3, dtype=torch.float64))).splitlines() == [
        "for float64 of shape (2, 3) on cpu:",
        "  rows  wide",
        "          not fast: it is not installed",
        "  sums  torch",
    ]


def test_every_operation_there_is_is_listed_for_default_features():
    found = explain_backends()
    assert list(found) == list(_dispatch.OPERATIONS)
    assert len(found) == len(_dispatch.OPERATIONS)
    for name, serving in found.items():
        names = [kernel.name for kernel in _dispatch.OPERATIONS[name].kernels]
        assert serving.name in (*names, "torch")
        assert list(serving.refused) == names[: len(serving.refused)]
        assert all(serving.refused.values())


def test_features_that_are_not_floating_point_are_refused():
    with pytest.raises(TypeError, match="`features`"):
        explain_backends(torch.zeros(3, 4, dtype=torch.int64))
