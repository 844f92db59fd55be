"""Each operator: what torch must know of it, and its kernels against its definition."""

import contextlib
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_checks import compiles
from strategies import draw, random_features, random_labels, random_logits

from graphcorrect import labels as labels_at
from graphcorrect.graphs.neighbor import NeighborOperator
from graphcorrect.ops import (
    class_layout,
    class_product,
    class_weights,
    edge_weights,
    label_mix,
    neighbor_product,
    pair_sum,
    unit_rows,
)
from graphcorrect.ops._dispatch import OPERATIONS, Kernel, Operation, without

BATCH, NODES, CLASSES, DIM = 2, 30, 4, 6


def layout_of(form, *, differentiable=False, dtype=torch.float64):
    vectors = random_logits(BATCH, NODES, CLASSES).softmax(-1).to(dtype)
    labels = random_labels(BATCH, NODES, num_classes=CLASSES + 2) - 1  # some are no class
    layout = class_layout._class_layout(vectors, labels, CLASSES, form == "low rank")
    if differentiable:
        layout = tuple(each.requires_grad_() if each.is_floating_point() else each for each in layout)
    return layout


def arguments_of(name, lay_out=lambda tensor: tensor):
    """Arguments of an operator, the floating point ones with gradients, each laid out in memory in some way."""

    def leaf(*shape, seed):
        return lay_out(random_features(*shape, seed=seed)).detach().requires_grad_()

    index = torch.randint(NODES, (BATCH, NODES, 3), generator=draw(2))
    edges = neighbor_product.sort_edges(index)
    labels = lay_out(random_labels(BATCH, NODES, num_classes=CLASSES, ignored=0.2))
    one_hot = (labels[..., None] == torch.arange(CLASSES)).double()
    unit = torch.nn.functional.normalize(random_features(BATCH, NODES, DIM), dim=-1) * one_hot.sum(-1, keepdim=True)
    mask = lay_out(torch.rand(BATCH, NODES, generator=draw(3)) < 0.8)
    return {
        "unit_rows": lambda: (leaf(BATCH, NODES, DIM, seed=1), mask, True),
        "unit_rows_gradient": lambda: (
            leaf(BATCH, NODES, DIM, seed=1),
            random_features(BATCH, NODES, 1, seed=2).abs().add(1).requires_grad_(),
            leaf(BATCH, NODES, DIM, seed=3),
        ),
        "sort_edges": lambda: (lay_out(index),),
        "neighbor_product": lambda: (
            leaf(BATCH * NODES, 3, seed=4),
            leaf(BATCH * NODES * 3, seed=5),
            leaf(BATCH * NODES, 5, seed=6),
            *edges,
        ),
        "neighbor_product, degrees given": lambda: (
            leaf(BATCH * NODES, 3, seed=4),
            leaf(BATCH * NODES * 3, seed=5),
            leaf(BATCH * NODES, 5, seed=6),
            *edges,
            torch.arange(BATCH * NODES) % 4.0,
        ),
        "keep_edges": lambda: (lay_out(random_features(BATCH, NODES, 3)), lay_out(index), mask),
        "normalize_edges": lambda: (lay_out(random_features(BATCH * NODES, 3).abs()), *edges),
        "class_layout": lambda: (leaf(BATCH, NODES, CLASSES, seed=7), labels, CLASSES, False),
        "class_layout of low rank": lambda: (leaf(BATCH, NODES, CLASSES, seed=7), labels, CLASSES, True),
        "class_product": lambda: (*layout_of("blocks", differentiable=True), leaf(BATCH, NODES, 5, seed=8)),
        "class_product of low rank": lambda: (
            *layout_of("low rank", differentiable=True),
            leaf(BATCH, NODES, 5, seed=8),
        ),
        "normalize_classes": lambda: layout_of("blocks"),
        "normalize_classes of low rank": lambda: layout_of("low rank"),
        "label_mix": lambda: (
            *(leaf(BATCH, NODES, CLASSES, seed=seed) for seed in (9, 10, 11)),
            mask[..., None].double(),
            2.0,
        ),
        "label_mix_gradient": lambda: (
            mask[..., None].double(),
            *(lay_out(random_features(BATCH, NODES, CLASSES, seed=seed)) for seed in (9, 10, 11)),
        ),
        "pair_sum": lambda: (lay_out(unit).detach().requires_grad_(), labels.where(labels != 255, -1), one_hot),
    }[name]()


OPERATORS = {
    "unit_rows": unit_rows._unit_rows,
    "unit_rows_gradient": unit_rows._unit_rows_gradient,
    "sort_edges": neighbor_product._sort_edges,
    "neighbor_product": neighbor_product._neighbor_product,
    "neighbor_product, degrees given": neighbor_product._neighbor_product,
    "keep_edges": edge_weights._keep_edges,
    "normalize_edges": edge_weights._normalize_edges,
    "class_layout": class_layout._class_layout,
    "class_layout of low rank": class_layout._class_layout,
    "class_product": class_product._class_product,
    "class_product of low rank": class_product._class_product,
    "normalize_classes": class_weights._normalize_classes,
    "normalize_classes of low rank": class_weights._normalize_classes,
    "label_mix": label_mix._label_mix,
    "label_mix_gradient": label_mix._label_mix_gradient,
    "pair_sum": pair_sum._pair_sum,
}
MEMORY = {
    "dense": lambda tensor: tensor,
    "permuted": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
}


@compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # a check of torch's own
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", OPERATORS)
def test_torch_is_told_the_truth_of_every_operator(loops, name, memory):
    torch.library.opcheck(OPERATORS[name], arguments_of(name, MEMORY[memory]))


def product_over_edges(weight, values):
    edges = neighbor_product.sort_edges(torch.randint(5, (2, 5, 2), generator=draw(2)))
    incoming = weight.flatten().index_select(0, edges.order)
    return neighbor_product.neighbor_product(weight, incoming, values, edges)


def product_where_some_are_isolated(weight, values):
    index = torch.arange(6).repeat(2, 1)[..., None]
    index[0, :3, 0] = torch.tensor([1, 2, 0])
    weight = weight.square() * (index.flatten() != torch.arange(6).repeat(2))[:, None]  # a loop has no weight
    edges = neighbor_product.sort_edges(index)
    incoming = weight.flatten().index_select(0, edges.order)
    degree = neighbor_product.neighbor_product(weight, incoming, torch.ones_like(values[:, :1]), edges)[:, 0]
    return neighbor_product.neighbor_product(weight, incoming, values, edges, degree.detach())


def mixed_labels(values, log, residual):
    return label_mix.label_mix(values, log, residual, torch.linspace(0.1, 0.9, 5)[:, None].double(), 2.0)


def product_by_class(is_low_rank):
    labels = random_labels(2, 5, num_classes=5) - 1  # some are no class

    def product(vectors, values):
        layout = class_layout.ClassLayout(*class_layout._class_layout(vectors, labels, 3, is_low_rank))
        return class_product.class_product(layout, values)

    return product


def sum_over_pairs(rows):
    labels = torch.tensor([[0, 1, -1, 1, 0]])
    one_hot = (labels[..., None] == torch.arange(2)).double()
    return pair_sum.pair_sum(unit_rows.unit_rows(rows, labels >= 0), labels, one_hot)


DIFFERENTIABLE = {
    "unit rows": (lambda rows: unit_rows.unit_rows(rows, torch.arange(5) != 3), [(5, 3)]),
    "unit rows of one scale": (lambda rows: unit_rows.unit_rows(rows, any_scale=False), [(5, 3)]),
    "neighbors": (product_over_edges, [(10, 2), (10, 3)]),
    "neighbors, some isolated": (product_where_some_are_isolated, [(12, 1), (12, 2)]),
    "label mix": (mixed_labels, [(5, 3), (5, 3), (5, 3)]),
    "classes in blocks": (product_by_class(False), [(2, 5, 3), (2, 5, 4)]),
    "classes of low rank": (product_by_class(True), [(2, 5, 3), (2, 5, 4)]),
    "pairs": (sum_over_pairs, [(1, 5, 3)]),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_first_and_second_derivatives(loops, name):
    function, shapes = DIFFERENTIABLE[name]
    leaves = tuple(random_features(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 200), st.integers(1, 6), st.sampled_from([1, 8, 70]))
def test_every_form_of_the_class_graph_is_the_definition(seed, num_graphs, num_nodes, num_classes, columns):
    vectors = random_logits(num_graphs, num_nodes, num_classes, seed=seed).softmax(-1)
    labels = torch.randint(-1, num_classes + 1, (num_graphs, num_nodes), generator=draw(seed))
    if seed % 3 == 0:  # classes that nobody is in
        labels = labels.minimum(labels[:, :1])
    values = random_features(num_graphs, num_nodes, columns, seed=seed)
    same = (labels[:, :, None] == labels[:, None]) & (labels >= 0)[..., None] & (labels < num_classes)[..., None]
    dense = (vectors @ vectors.mT) * same
    dense.diagonal(dim1=1, dim2=2).fill_(1.0)
    for is_low_rank, ruled_out in itertools.product((True, False), ((), ("numba",))):
        with without(*ruled_out):
            layout = class_layout.ClassLayout(*class_layout._class_layout(vectors, labels, num_classes, is_low_rank))
            torch.testing.assert_close(class_product.class_product(layout, values), dense @ values)


@given(batch=st.integers(1, 4), nodes=st.integers(1, 40), k=st.integers(0, 6), seed=st.integers(0, 1000))
def test_edges_are_sorted_by_target_each_with_its_source(batch, nodes, k, seed):
    index = torch.randint(nodes, (batch, nodes, k), generator=draw(seed))
    edges = neighbor_product.sort_edges(index)
    targets = [node + graph * nodes for graph in range(batch) for node in index[graph].flatten().tolist()]
    order = sorted(range(len(targets)), key=targets.__getitem__)
    assert edges.index.flatten().tolist() == targets
    assert edges.order.tolist() == order
    assert edges.source.tolist() == [edge // k for edge in order]
    arriving = [sum(target < node for target in targets) for node in range(batch * nodes)]
    assert edges.offsets.tolist() == [[max(1, k) * node for node in range(batch * nodes)], arriving]


@pytest.mark.parametrize("outside", [-1, 5, 2**40])
def test_an_edge_out_of_its_graph_is_refused_before_memory_is_touched(loops, outside):
    index = torch.randint(5, (2, 5, 3), generator=draw(0))
    index[1, 2, 0] = outside
    with pytest.raises(ValueError, match=r"`index` in \[0, 5\)"):
        NeighborOperator(index, torch.ones(2, 5, 3))


@pytest.mark.parametrize("num_nodes", [3, 2049, 5000])
def test_pair_sums_in_tiles_are_those_of_whole_images(num_nodes):
    rows = torch.nn.functional.normalize(random_features(2, num_nodes, 70), dim=-1).requires_grad_()
    labels = torch.randint(3, (2, num_nodes), generator=draw(1))
    one_hot = torch.nn.functional.one_hot(labels).double()
    found = []
    for ruled_out in ((), ("tiles",)):
        with without(*ruled_out):
            pairs = pair_sum.pair_sum(rows, labels, one_hot)
            found.append((pairs, *torch.autograd.grad(pairs.sin().sum(), rows)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("num_classes", [1, 3, 150])
@pytest.mark.parametrize("sizes", [((12, 16), (3, 4)), ((13, 17), (5, 4)), ((7, 9), (7, 3)), ((3, 4), (5, 6))])
def test_a_cell_gets_the_label_with_most_of_its_pixels(sizes, num_classes):
    (height, width), (rows, columns) = sizes
    labels = random_labels(2, height, width, num_classes=num_classes, ignored=0.3)
    pooled = labels_at.pool_labels(labels, (rows, columns), num_classes)
    for image, row, column in itertools.product(range(2), range(rows), range(columns)):
        top, bottom = row * height // rows, -(-(row + 1) * height // rows)
        left, right = column * width // columns, -(-(column + 1) * width // columns)
        values, counts = labels[image, top:bottom, left:right].unique(return_counts=True)
        best = values[counts == counts.max()]
        assert pooled[image, row, column] == (best[0] if len(best) == 1 else 255)


def test_the_first_kernel_that_is_not_refused_serves_and_the_others_say_why():
    def refuses(reason):
        return lambda *_: reason

    kernels = [
        Kernel("one", refuses("one is not installed"), "math", "sin"),
        Kernel("two", refuses(None), "math", "cos"),
        Kernel("three", refuses(None), "math", "tan"),
    ]
    operation = Operation("a trial", abs, *kernels)
    try:
        assert operation(0.0) == 1.0
        assert operation.explain() == ("two", {"one": "one is not installed"})
        with without("two", "three"):
            assert operation(-3.0) == 3.0
            assert operation.explain() == (
                "torch",
                {"one": "one is not installed", "two": "it is ruled out", "three": "it is ruled out"},
            )
        with contextlib.suppress(KeyError), without("two"):
            raise KeyError
        assert operation(0.0) == 1.0
    finally:
        del OPERATIONS["a trial"]
