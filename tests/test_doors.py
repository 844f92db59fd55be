"""Tensors of other kinds at every public door: refused by the argument's name, never by a trace from deep inside."""

import pytest
import torch

from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    DualGraphRefiner,
    DynamicThreshold,
    KNNAffinity,
    PrototypeBank,
    clg_loss,
    guided_upsample,
    knn,
    labels,
    metrics,
    slg_loss,
)
from graphcorrect.nodes import image_to_nodes, nodes_to_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's, of the kinds

X, Z, Y = torch.randn(30, 6), torch.randn(30, 3), torch.randint(3, (30,))
P, MASK = Z.softmax(-1), torch.ones(30, dtype=torch.bool)
FEATURES, LOGITS, IMAGES = torch.randn(2, 6, 5, 6), torch.randn(2, 3, 5, 6), torch.rand(2, 3, 10, 12)
MAP = torch.randint(3, (2, 10, 12))

KINDS = {
    "COO": lambda tensor: tensor.to_sparse(),
    "CSR": lambda tensor: tensor.to_sparse_csr() if tensor.ndim == 2 else tensor.to_sparse(),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor, tensor]),
    "masked": lambda tensor: torch.masked.masked_tensor(tensor, torch.ones_like(tensor, dtype=torch.bool)),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "NumPy's": lambda tensor: tensor.numpy(),
    "a list": lambda tensor: tensor.tolist(),
}


def refiner():
    return DualGraphRefiner(3, 6, num_neighbors=4)


def filled():
    bank = AnchorBank(3, 6)
    bank.update(X, Y)
    return bank


# name: (argument that must be named, call with that argument of another kind, the argument)
DOORS = {
    "refiner, features": ("features", lambda t: refiner()(t, Z), X),
    "refiner, logits": ("logits", lambda t: refiner()(X, t), Z),
    "refiner, mask": ("mask", lambda t: refiner()(X, Z, mask=t), MASK),
    "refiner, images": ("features", lambda t: refiner()(t, LOGITS), FEATURES),
    "refiner, keys": ("anchor_features", lambda t: refiner()(X, Z, anchors=filled(), anchor_features=t), X),
    "knn": ("queries", lambda t: knn(t, X, 3), X),
    "knn, keys": ("keys", lambda t: knn(X, t, 3), X),
    "affinity": ("features", lambda t: KNNAffinity(3)(t), X),
    "class graph": ("probabilities", lambda t: ClassConsistencyGraph()(t), P),
    "class graph, labels": ("pseudo_labels", lambda t: ClassConsistencyGraph()(P, t), Y),
    "product": ("values", lambda t: KNNAffinity(3)(X) @ t, P),
    "pair loss": ("features", lambda t: slg_loss(t, Y), X),
    "pair loss, labels": ("labels", lambda t: slg_loss(X, t), Y),
    "pair loss, prototypes": ("prototypes", lambda t: slg_loss(X, Y, t), torch.randn(3, 6)),
    "label loss": ("probabilities", lambda t: clg_loss(t, Y), P),
    "threshold": ("probabilities", lambda t: DynamicThreshold(3)(t), P),
    "anchors, update": ("features", lambda t: AnchorBank(3, 6).update(t, Y), X),
    "anchors": ("features", lambda t: filled()(t), X),
    "anchors, correct": ("probabilities", lambda t: filled().correct(t, X), P),
    "prototypes": ("features", lambda t: PrototypeBank(3, 6).update(t, Y), X),
    "guided": ("soft_labels", lambda t: guided_upsample(t, IMAGES), LOGITS.softmax(1)),
    "guided, images": ("images", lambda t: guided_upsample(LOGITS.softmax(1), t), IMAGES),
    "confusion": ("predictions", lambda t: metrics.confusion_matrix(t, Y, 3), Y),
    "IoU": ("confusion", metrics.per_class_iou, torch.eye(3)),
    "counts": ("before", lambda t: metrics.correction_counts(t, Y, Y), Y),
    "one-hot": ("labels", lambda t: labels.one_hot(t, 3), Y),
    "resized labels": ("labels", lambda t: labels.resize_labels(t, (5, 6)), MAP),
    "pooled labels": ("labels", lambda t: labels.pool_labels(t, (5, 6), 3), MAP),
    "images to nodes": ("maps", image_to_nodes, FEATURES),
    "nodes to images": ("nodes", lambda t: nodes_to_image(t, (5, 6)), torch.randn(2, 30, 6)),
}


@pytest.mark.parametrize("door", DOORS)
def test_other_kinds_of_tensors_are_refused_by_the_name_of_the_argument(door):
    name, call, argument = DOORS[door]
    call(argument)
    for kind, made in KINDS.items():
        if kind == "complex" and name in ("maps", "nodes"):  # moved only
            continue
        with pytest.raises(TypeError, match=f"expected `{name}`"):
            call(made(argument))


@pytest.mark.parametrize("door", ["counts", "IoU"])
def test_a_tensor_without_values_is_refused_where_they_are_read(door):
    name, call, argument = DOORS[door]
    with pytest.raises(ValueError, match="expected `"):
        call(argument.to("meta"))


def test_sparse_refusals_say_what_to_do():
    with pytest.raises(TypeError, match=r"got the layout torch.sparse_coo; use `.to_dense\(\)`"):
        KNNAffinity(3)(X.to_sparse())
    torch.testing.assert_close(KNNAffinity(3)(X.to_sparse().to_dense()).to_dense(), KNNAffinity(3)(X).to_dense())


@pytest.mark.parametrize(
    ("features", "keys", "message"),
    [
        (X, torch.randn(30, 5), r"`anchor_features` with 6 entries a node .*got 5"),
        (X, torch.randn(29, 6), r"`anchor_features` of shape \(30, 6\)"),
        (X, torch.randn(6), r"`anchor_features` of shape \(\.\.\., N, E\)"),
        (FEATURES, torch.randn(2, 4, 9, 9), "`anchor_features` with 6 entries a node .*got 4"),
        (FEATURES, torch.randn(3, 6, 9, 9), "`anchor_features` with 2 images"),
    ],
)
def test_keys_that_do_not_fit_the_anchors_are_named_and_not_the_features(features, keys, message):
    with pytest.raises(ValueError, match=message):
        refiner()(features, Z if features is X else LOGITS, anchors=filled(), anchor_features=keys)


@pytest.mark.parametrize("label", [-1, -7, 3, 255])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_label_that_is_no_class_joins_nobody_in_every_kernel(label, similarity, loops):
    nodes, some = torch.arange(30), Y.clone()
    some[::4] = label
    probabilities = torch.randn(30, 3, dtype=torch.float64).softmax(-1)
    graph = ClassConsistencyGraph(similarity=similarity)(probabilities, some)
    is_class = (some >= 0) & (some < 3)
    joined = (some[:, None] == some) & is_class[:, None] & is_class
    vectors = torch.nn.functional.normalize(probabilities, dim=-1) if similarity == "cosine" else probabilities
    weights = torch.where(nodes[:, None] == nodes, 1.0, torch.where(joined, vectors @ vectors.T, 0.0))
    scale = weights.sum(1).rsqrt()
    expected = scale[:, None] * weights * scale
    torch.testing.assert_close(graph.to_dense(), expected)
    values = torch.randn(30, 5, dtype=torch.float64)
    torch.testing.assert_close(graph @ values, expected @ values)
    torch.testing.assert_close(graph @ values[0::4].new_ones(30, 1), expected.sum(1, keepdim=True))
