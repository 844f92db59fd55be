"""Triton's kernels of the graphs against the definitions. Functions `interpreted_*` run as in triton_interpreter.py."""

import functools
import importlib
import os
from unittest import mock

import pytest
import torch
from strategies import draw, random_features
from triton_interpreter import run_interpreted

from graphcorrect import DualGraphRefiner
from graphcorrect.ops import class_layout, class_weights, edge_weights, label_mix, neighbor_product
from graphcorrect.ops._dispatch import Operation, without


def kernel_of(operation):
    pytest.importorskip("triton")
    return next(kernel for kernel in operation.kernels if kernel.name == "triton").load()


def agree(operation, *arguments, device=None):
    """Holds the kernel to the definition, layouts included; returns what the definition says."""
    expected = operation.definition(*arguments)
    moved = [each.to(device) if device and isinstance(each, torch.Tensor) else each for each in arguments]
    found = operation(*moved) if device else kernel_of(operation)(*moved)
    for one, other in zip(*((each if isinstance(each, tuple) else (each,)) for each in (found, expected)), strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
    return expected


def test_under_the_interpreter():
    run_interpreted(__file__)


# graphs, nodes, neighbors, columns of values: programs take 16 nodes, 32 edges, 64 columns or 512 edges in a row
SIZES = [(1, 1, 1, 1), (2, 9, 3, 5), (2, 33, 20, 21), (1, 17, 33, 300), (2, 5, 4, 64)]


def edges_of(num_graphs, num_nodes, num_neighbors, *, device=None):
    """Everything that is made of a search's result, by the kernels and by the definitions alike."""
    similarity = torch.randn(num_graphs, num_nodes, num_neighbors, generator=draw(0))
    index = torch.randint(num_nodes, similarity.shape, generator=draw(1))
    index[:, ::2, 0] = 0  # a node where many arrive
    mask = torch.rand(num_graphs, num_nodes, generator=draw(2)) < 0.7  # others only receive, or are isolated
    mask[0, 0] = False
    similarity[0, num_nodes // 2, 0] = torch.nan
    agree(edge_weights.KEEP, similarity, index, None, device=device)
    weight, _, *edges = agree(edge_weights.KEEP, similarity, index, mask, device=device)
    weight = weight.flatten(0, 1)
    degree, _, outgoing, incoming = agree(edge_weights.NORMALIZE, weight, *edges, device=device)
    return outgoing, incoming, edges, degree


@pytest.mark.parametrize("size", SIZES)
def interpreted_edges_and_products(size, device=None):
    outgoing, incoming, (index, _, source, offsets), degree = edges_of(*size[:3], device=device)
    values = random_features(len(outgoing), size[3], dtype=torch.float32)
    layouts = (
        values,
        values.T.contiguous().T,
        values.repeat_interleave(2, 1)[:, ::2],
        values[:1, :1].expand(values.shape),
    )
    for of_nodes, laid_out in zip((degree, None, degree, None), layouts, strict=True):
        arguments = outgoing, incoming, laid_out, index, source, offsets, of_nodes
        agree(neighbor_product.OPERATION, *arguments, device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, (4, 2000, 20, 300)])
def test_edges_and_products_on_a_gpu(size):
    interpreted_edges_and_products(size, device="cuda")


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 9, 4, 4), (1, 130, 21, 21), (3, 5, 30, 34)])
def interpreted_classes(size, device=None):
    num_graphs, num_nodes, num_classes, width = size
    vectors = random_features(num_graphs, num_nodes, width, dtype=torch.float32).softmax(-1)
    labels = torch.randint(-1, num_classes + 1, (num_graphs, num_nodes), generator=draw(1))  # some of no class
    vectors[..., num_nodes // 2, :] = torch.nan
    labels[..., num_nodes // 2] = num_classes
    for laid_out in (vectors, vectors.mT.contiguous().mT):
        factors = agree(class_layout.FACTORS, laid_out, labels, num_classes, device=device)
        agree(class_weights.OPERATION, *factors, *(labels.new_empty(0) for _ in range(4)), device=device)


@pytest.mark.parametrize("size", [(1, 1), (70, 21), (2, 9, 150), (3, 1100)])
def interpreted_label_mixes(size, device=None):
    values, log, residual, grad = (random_features(*size, seed=seed, dtype=torch.float32) for seed in range(4))
    share = torch.rand(*size[:-1], 1, generator=draw(4))
    log[..., 0, 0] = -200.0
    _, corrected, bend = agree(label_mix.OPERATION, values, log, 20 * residual, share, 10.0, device=device)
    for laid_out in (grad, grad.mT.contiguous().mT, grad[..., :1].expand(grad.shape)):
        agree(label_mix.GRADIENT, share, corrected, bend, laid_out, device=device)


@pytest.mark.gpu
def test_classes_and_label_mixes_on_a_gpu():
    interpreted_classes((4, 2000, 21, 21), device="cuda")
    interpreted_label_mixes((4, 2000, 150), device="cuda")


def test_graphs_without_edges_are_left_to_torch():
    for shape in ((2, 0, 3), (2, 3, 0), (0, 3, 3)):
        found = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), None
        assert edge_weights.KEEP.explain(*found)[1]["triton"] == "an empty tensor leaves nothing to launch"


FLOATS, INTS, LONGS, BYTES, SIZE, LONG = "*fp32", "*i32", "*i64", "*i8", "i32", "i64"
KERNELS = {  # the types of their arguments, then the values of those that the compiler needs
    "edges._keep_kernel": ([FLOATS, LONGS, BYTES, FLOATS, LONGS, LONGS, INTS, *[SIZE] * 3], [512]),
    "edges._find_kernel": ([INTS, LONGS, LONGS, LONGS, LONG, *[SIZE] * 3], [512]),
    "edges._degree_kernel": ([FLOATS, LONGS, LONGS, FLOATS, FLOATS, *[SIZE] * 3, "fp32"], [16, 32]),
    "edges._scale_kernel": ([FLOATS, FLOATS, LONGS, LONGS, FLOATS, FLOATS, SIZE, SIZE], [512]),
    "edges._product_kernel": (
        [FLOATS, FLOATS, FLOATS, LONGS, LONGS, LONGS, FLOATS, FLOATS, *[SIZE] * 6],
        [64, 32],
    ),
    "class_blocks._factor_kernel": ([FLOATS, LONGS, FLOATS, FLOATS, *[SIZE] * 3], [512, 4]),
    "class_blocks._normalize_kernel": ([*[FLOATS] * 7, *[SIZE] * 3], [2.0**-126, 512, 4]),
    "labels._mix_kernel": ([*[FLOATS] * 7, SIZE, SIZE, "fp32"], [32, 32]),
    "labels._gradient_kernel": ([*[FLOATS] * 7, *[SIZE] * 6], [32, 32]),
}


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: nothing is compiled")
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_compile(name, tmp_path, monkeypatch):
    """Down to machine code of an H100, which needs no GPU; the interpreter accepts what the compiler does not."""
    triton = pytest.importorskip("triton", minversion="3.6")  # the compiler's own interface changes with versions
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    file, function = name.split(".")
    kernel = getattr(importlib.import_module(f"graphcorrect.ops.kernels.cuda.{file}"), function)
    types, constants = KERNELS[name]
    values = {(len(types) + place,): value for place, value in enumerate(constants)}
    signature = dict(zip(kernel.arg_names, types + ["constexpr"] * len(constants), strict=True))
    compiled = triton.compile(ASTSource(kernel, signature, constexprs=values), target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]


# Operations of torch that move no number: views, allocations
FREE = frozenset(
    "view _unsafe_view t transpose expand unsqueeze squeeze slice select detach alias permute as_strided split unbind "
    "_reshape_alias lift_fresh empty new_empty empty_like empty_strided new_empty_strided resize_ diagonal view_as "
    "unfold split_with_sizes detach_ item _local_scalar_dense set_ result_type is_nonzero chunk".split()
)
TRITON = "triton::"


@functools.cache
def is_launch(name):
    """Whether a span of the profile is a kernel of Triton's, or an operation of torch that has one of its own."""
    short = name.removeprefix("aten::")
    if short == name or short in FREE or not hasattr(torch.ops.aten, short):
        return name.startswith(TRITON)
    names = [name if each == "default" else f"{name}.{each}" for each in getattr(torch.ops.aten, short).overloads()]
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(each, key)
        for each in names
        for key in ("CUDA", "CPU", "CompositeExplicitAutograd")
        if torch._C._dispatch_has_kernel(each)
    )


def launches_of_the_refiner(side):
    """What the default refiner would launch on a GPU, forward and backward, counted by the profiler on a CPU."""
    refiner = DualGraphRefiner(21, 64)
    inputs = [torch.randn(2, channels, side, side, requires_grad=True) for channels in (64, 21)]

    def step():
        out = refiner(*inputs)
        results = out.soft_labels, out.features[-1]
        torch.autograd.backward(results, [torch.ones_like(each) for each in results])

    waits = mock.patch("graphcorrect.refiner_input.reading_is_free", return_value=False)  # a GPU would be waited for
    with waits, mock.patch("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", 2**62):  # and has no such limit
        step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
    busy_until, found = {}, []
    for event in sorted(profile.events(), key=lambda e: (e.thread, e.time_range.start, -e.time_range.end)):
        # An operation inside another is a part of it
        if is_launch(event.name) and event.time_range.start >= busy_until.get(event.thread, -1):
            busy_until[event.thread] = event.time_range.end
            found.append(event.name)
    return found


def test_operations_of_the_refiner_are_no_more_than_those_of_dense():
    with without("numba"):
        assert len(launches_of_the_refiner(24)) <= 344  # of dense matrices, by benchmarks/launches.py


def interpreted_operations_of_the_refiner_with_tritons_kernels(monkeypatch):
    """The search as torch does it, since Triton's is not served on every GPU."""
    from triton.runtime.interpreter import GridExecutor

    def choose(operation, *arguments):
        is_empty = any(isinstance(each, torch.Tensor) and each.numel() == 0 for each in arguments[:2])
        names = () if is_empty or operation.name == "neighbors" else ("triton",)
        return next((kernel for kernel in operation.kernels if kernel.name in names), None)

    def launch(self, *arguments, **settings):
        with torch.profiler.record_function(TRITON + self.fn.__name__):
            return run(self, *arguments, **settings)

    run = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", launch)
    monkeypatch.setattr(Operation, "choose", choose)
    found = launches_of_the_refiner(4)
    assert len(found) <= 200, found
    assert sum(name.startswith(TRITON) for name in found) >= 30
