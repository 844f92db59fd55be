"""Bad input: each message names the argument in backticks, says what was expected and what came."""

import re
import sys

import pytest
import torch

from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    CLGLoss,
    DualGraphRefiner,
    DynamicThreshold,
    EMATeacher,
    KNNAffinity,
    LabelCorrectionLoss,
    PrototypeBank,
    SLGLoss,
    clg_loss,
    knn,
    metrics,
    slg_loss,
)
from graphcorrect.functional import pool_labels, propagate
from graphcorrect.nodes import image_to_nodes, nodes_to_image

X = torch.randn(2, 30, 4)  # features of nodes
Z = torch.randn(2, 30, 3)  # logits of nodes
P = Z.softmax(-1)
Y = torch.zeros(2, 30, dtype=torch.int64)
IMAGES, MAPS = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6)
MASK = torch.ones(2, 30, dtype=torch.bool)
NAN = torch.full_like(X, torch.nan)


def refiner(**options):
    return DualGraphRefiner(3, 4, num_neighbors=5, **options)


# name: (call, argument, what was expected, what came)
VALUE_ERRORS = {
    # The search
    "k as large as the number of nodes": (lambda: knn(X, None, 30, exclude_self=True), "num_neighbors", "29", "30"),
    "more neighbors than keys": (lambda: knn(X, X[:, :4], 5), "num_neighbors", "4", "5"),
    "negative k": (lambda: knn(X, None, -1), "num_neighbors", "0", "-1"),
    "keys of another width": (lambda: knn(X, torch.randn(2, 9, 5), 2), "keys", "(2, 9, 4)", "(2, 9, 5)"),
    "keys of another batch": (lambda: knn(X, torch.randn(3, 9, 4), 2), "keys", "(2, 9, 4)", "(3, 9, 4)"),
    "a vector of queries": (lambda: knn(X[0, 0], None, 2), "queries", "(..., N, D)", "(4,)"),
    "an unknown backend": (lambda: knn(X, None, 2, backend="annoy"), "backend", "'torch'", "'annoy'"),
    "self excluded among others": (lambda: knn(X, X[:, :9], 2, exclude_self=True), "keys", "30", "9"),
    "a key mask of another size": (lambda: knn(X, None, 2, key_mask=MASK[:, :9]), "key_mask", "(2, 30)", "(2, 9)"),
    # Graphs
    "a graph of no neighbors": (lambda: KNNAffinity(0), "num_neighbors", "1", "0"),
    "gamma of zero": (lambda: KNNAffinity(3, gamma=0.0), "gamma", "(0", "0.0"),
    "images for the nodes of a graph": (
        lambda: KNNAffinity(3)(X.view(2, 5, 6, 4)),
        "features",
        "(..., N, D)",
        "images",
    ),
    "images for the nodes of classes": (
        lambda: ClassConsistencyGraph()(X.view(2, 5, 6, 4)),
        "probabilities",
        "(..., N, C)",
        "images",
    ),
    "maps that linear ones do not have": (
        lambda: DualGraphRefiner(3, 4, propagation="linear", depth=2),
        "depth",
        'propagation="linear"',
        "2",
    ),
    "a mask of another size": (lambda: KNNAffinity(3)(X, mask=MASK[:1]), "mask", "(2, 30)", "(1, 30)"),
    "unknown class weights": (lambda: ClassConsistencyGraph(similarity="l2"), "similarity", "'dot'", "'l2'"),
    "too few pseudo-labels": (lambda: ClassConsistencyGraph()(P, Y[:, :9]), "pseudo_labels", "(2, 30)", "(2, 9)"),
    "a share above one": (lambda: propagate(KNNAffinity(3)(X), Z, 1.5), "alpha", "[0, 1]", "1.5"),
    "images where nodes belong": (lambda: nodes_to_image(IMAGES, (5, 6)), "nodes", "(B, N, D)", "(2, 4, 5, 6)"),
    "nodes where images belong": (lambda: image_to_nodes(X), "maps", "(B, D, H, W)", "(2, 30, 4)"),
    "an image of another size": (lambda: nodes_to_image(X, (4, 6)), "nodes", "24", "30"),
    # The refiner
    "alpha above one": (lambda: refiner(alpha=1.2), "alpha", "[0, 1]", "1.2"),
    "sigma below zero": (lambda: refiner(sigma=-0.1), "sigma", "[0, 1]", "-0.1"),
    "an unknown order": (lambda: refiner(order="both"), "order", "'class_first'", "'both'"),
    "no classes": (lambda: DualGraphRefiner(0, 4), "num_classes", "1", "0"),
    "negative rounds": (lambda: refiner(num_rounds=-1), "num_rounds", "0", "-1"),
    "no node budget": (lambda: refiner(max_nodes=0), "max_nodes", "1", "0"),
    "an unknown preset": (lambda: DualGraphRefiner.from_preset("mine", 3, 4), "preset", "'paper'", "'mine'"),
    "features of another width": (lambda: refiner()(torch.randn(2, 30, 5), Z), "features", "4", "5"),
    "logits of other classes": (lambda: refiner()(X, torch.randn(2, 30, 7)), "logits", "(2, 30, 3)", "(2, 30, 7)"),
    "logit maps of other classes": (lambda: refiner()(IMAGES, torch.randn(2, 7, 5, 6)), "logits", "3", "7"),
    "logits of other nodes": (lambda: refiner()(X, Z[:, :9]), "logits", "(2, 30, 3)", "(2, 9, 3)"),
    "image features, node logits": (lambda: refiner()(IMAGES, Z), "logits", "(B, C, H, W)", "(2, 30, 3)"),
    "another number of images": (lambda: refiner()(IMAGES, MAPS[:1]), "logits", "2", "1"),
    "a mask for other nodes": (lambda: refiner()(X, Z, mask=MASK[:, :9]), "mask", "(2, 30)", "(2, 9)"),
    "anchor features without anchors": (
        lambda: refiner()(X, Z, anchor_features=X),
        "anchors",
        "anchor_features",
        "None",
    ),
    "anchors of other classes": (lambda: refiner()(X, Z, anchors=AnchorBank(7, 4)), "anchors", "3", "7"),
    "NaN among the features": (lambda: refiner(validate_args=True)(NAN, Z), "features", "finite", "240 NaN"),
    "NaN among the logits": (lambda: refiner(validate_args=True)(X, NAN[..., :3]), "logits", "finite", "180 NaN"),
    # Thresholds and banks
    "probabilities of other classes": (lambda: DynamicThreshold(7)(P), "probabilities", "7", "3"),
    "a threshold mask of another size": (lambda: DynamicThreshold(3)(P, mask=MASK[:1]), "mask", "(2, 30)", "(1, 30)"),
    "a label of no class": (lambda: PrototypeBank(3, 4).update(X, Y + 7), "labels", "[0, 3)", "values 7"),
    "a negative label": (lambda: PrototypeBank(3, 4).update(X, Y - 1), "labels", "[0, 3)", "values -1"),
    "a round too many": (lambda: PrototypeBank(3, 4).update(X, Y, round=2), "round", "[0, 2)", "2"),
    "momentum above one": (lambda: PrototypeBank(3, 4, momentum=1.1), "momentum", "[0, 1]", "1.1"),
    "bank features of another width": (lambda: PrototypeBank(3, 5).update(X, Y), "features", "5", "4"),
    "labels of other nodes": (lambda: PrototypeBank(3, 4).update(X, Y[:, :9]), "labels", "(2, 30)", "(2, 9)"),
    "an anchor of no class": (lambda: AnchorBank(3, 4).update(X, Y + 3), "labels", "[0, 3)", "values 3"),
    "anchors of another width": (lambda: AnchorBank(3, 5).update(X, Y), "features", "5", "4"),
    "anchors without temperature": (lambda: AnchorBank(3, 4, temperature=0.0), "temperature", "(0", "0.0"),
    "anchors of an unknown backend": (lambda: AnchorBank(3, 4, backend="annoy"), "backend", "'torch'", "'annoy'"),
    "anchors without a floor": (lambda: AnchorBank(3, 4, eps=0.0), "eps", "(0, 1]", "0.0"),
    # Losses and metrics
    "contrast with a label of no class": (lambda: slg_loss(X, Y + 9, num_classes=3), "labels", "[0, 3)", "values 9"),
    "contrast without temperature": (lambda: SLGLoss(temperature=0.0), "temperature", "(0", "0.0"),
    "contrast of endless temperature": (lambda: SLGLoss(temperature=float("inf")), "temperature", "inf)", "inf"),
    "features without entries": (lambda: DualGraphRefiner(3, 0), "feature_dim", "at least 1", "0"),
    "balance below zero": (lambda: SLGLoss(balance=-0.5), "balance", "[0, 1]", "-0.5"),
    "balance above one": (lambda: slg_loss(X, Y, balance=2.0), "balance", "[0, 1]", "2.0"),
    "prototypes of another width": (lambda: slg_loss(X, Y, torch.randn(3, 5)), "prototypes", "4", "5"),
    "prototypes of all rounds at once": (
        lambda: slg_loss(X, Y, torch.randn(2, 3, 4)),
        "prototypes",
        "(C, D)",
        "(2, 3, 4)",
    ),
    "logits on another device": (lambda: refiner()(X, Z.to("meta")), "logits", "cpu", "meta"),
    "values on another device": (lambda: KNNAffinity(3)(X) @ Z.to("meta"), "values", "cpu", "meta"),
    "keys on another device": (lambda: knn(X, X.to("meta"), 2), "keys", "cpu", "meta"),
    "labels on another device": (
        lambda: ClassConsistencyGraph()(P, Y.to("meta")),
        "pseudo_labels",
        "device of `probabilities`, cpu",
        "meta",
    ),
    "a threshold's counts on another device": (
        lambda: DynamicThreshold(3, accumulate=True)(P.to("meta")),
        "probabilities",
        "device of `counts`, cpu",
        "meta",
    ),
    "predictions on another device": (
        lambda: metrics.confusion_matrix(Y.to("meta"), Y, 3),
        "predictions",
        "device of `labels`, cpu",
        "meta",
    ),
    "probabilities of no class": (
        lambda: ClassConsistencyGraph()(P[..., :0]),
        "probabilities",
        "at least one class",
        "(2, 30, 0)",
    ),
    "a prototype mask alone": (lambda: slg_loss(X, Y, None, MASK[0, :3]), "prototypes", "prototype_mask", "None"),
    "an unknown reduction": (lambda: CLGLoss(reduction="avg"), "reduction", "'mean'", "'avg'"),
    "a loss on a label of no class": (lambda: clg_loss(P, Y + 3), "pseudo_labels", "[0, 3)", "values 3"),
    "a loss on a negative label": (lambda: clg_loss(P, Y - 100), "pseudo_labels", "[0, 3)", "values -100"),
    "a loss on too few labels": (lambda: clg_loss(P, Y[:, :9]), "pseudo_labels", "(2, 30)", "(2, 9)"),
    "a negative weight": (lambda: LabelCorrectionLoss(slg_weight=-1.0), "slg_weight", "[0", "-1.0"),
    "a truth of no class": (lambda: metrics.confusion_matrix(Y, Y + 3, 3), "labels", "[0, 3)", "values 3"),
    "a prediction of no class": (lambda: metrics.confusion_matrix(Y + 3, Y, 3), "predictions", "[0, 3)", "values 3"),
    "void that labels of 8 bits cannot hold": (
        lambda: pool_labels(torch.zeros(1, 4, 4, dtype=torch.uint8), (2, 2), 3, ignore_index=-100),
        "labels",
        "ignore_index=-100",
        "torch.uint8",
    ),
    "predictions of another size": (
        lambda: metrics.confusion_matrix(Y[:, :9], Y, 3),
        "predictions",
        "(2, 30)",
        "(2, 9)",
    ),
    "a confusion matrix that is not square": (lambda: metrics.mean_iou(Y), "confusion", "2", "30"),
}
TYPE_ERRORS = {
    # The search
    "k that is no int": (lambda: knn(X, None, 2.5), "num_neighbors", "int", "float"),
    "keys of another dtype": (lambda: knn(X, X.double(), 2), "keys", "float32", "float64"),
    "integer queries": (lambda: knn(Y, None, 2), "queries", "floating point", "int64"),
    "a float key mask": (lambda: knn(X, None, 2, key_mask=MASK.float()), "key_mask", "bool", "float32"),
    # Graphs
    "a float mask": (lambda: KNNAffinity(3)(X, mask=MASK.float()), "mask", "bool", "float32"),
    "integer probabilities": (lambda: ClassConsistencyGraph()(Y), "probabilities", "floating point", "int64"),
    "float pseudo-labels": (lambda: ClassConsistencyGraph()(P, Y.float()), "pseudo_labels", "integer", "float32"),
    # The refiner
    "integer features": (lambda: refiner()(X.long(), Z), "features", "floating point", "int64"),
    "integer logits": (lambda: refiner()(X, Z.long()), "logits", "floating point", "int64"),
    "no tensor at all": (lambda: refiner()(X.numpy(), Z), "features", "Tensor", "ndarray"),
    "an integer mask": (lambda: refiner()(X, Z, mask=Y), "mask", "bool", "int64"),
    # Thresholds and banks
    "float labels": (lambda: PrototypeBank(3, 4).update(X, Y.float()), "labels", "integer", "float32"),
    "bool labels": (lambda: PrototypeBank(3, 4).update(X, MASK), "labels", "integer", "bool"),
    "integer probabilities for anchors": (
        lambda: AnchorBank(3, 4).correct(Y, X),
        "probabilities",
        "floating point",
        "int64",
    ),
    "a teacher of no module": (lambda: EMATeacher(lambda x: x), "model", "Module", "function"),
    # Losses and metrics
    "a float prototype mask": (
        lambda: slg_loss(X, Y, torch.randn(3, 4), torch.ones(3)),
        "prototype_mask",
        "bool",
        "float32",
    ),
    "a loss on float labels": (lambda: clg_loss(P, Y.float()), "pseudo_labels", "integer", "float32"),
}


@pytest.mark.parametrize("name", [*VALUE_ERRORS, *TYPE_ERRORS])
def test_the_message_says_which_argument_what_was_expected_and_what_came(name):
    call, argument, expected, came = VALUE_ERRORS.get(name) or TYPE_ERRORS[name]
    with pytest.raises(ValueError if name in VALUE_ERRORS else TypeError) as caught:
        call()
    message = str(caught.value)
    assert f"`{argument}`" in message
    before, got, after = message.partition("got ")
    assert got, message
    assert expected in before, message
    assert came in after, message


def test_all_offending_labels_are_listed_once():
    with pytest.raises(ValueError, match=re.escape("got the values -3, 4, 77")):
        clg_loss(
            P,
            torch.where(torch.rand(2, 30) < 0.5, 77, Y)
            .index_fill(1, torch.tensor([3]), 4)
            .index_fill(1, torch.tensor([9]), -3),
        )


def test_the_ignored_label_is_no_mistake_whatever_its_value():
    for ignore_index in (255, -100, -1, 2):
        labels = torch.full((2, 30), ignore_index)
        labels[0, 0] = 1
        assert clg_loss(P, labels, ignore_index=ignore_index).item() == pytest.approx(
            -P[0, 0, 1].item() * P[0, 0, 1].log().item()
        )
        bank = PrototypeBank(3, 4, ignore_index=ignore_index)
        bank.update(X, labels)
        assert bank.is_initialized[0].tolist() == [False, True, False]


def test_without_the_check_labels_of_no_class_are_ignored():
    spoiled = Y.clone()
    spoiled[:, ::2] = 200
    wanted = Y.clone()
    wanted[:, ::2] = 255
    assert clg_loss(P, spoiled, validate_args=False) == clg_loss(P, wanted)
    assert slg_loss(X, spoiled, num_classes=3, validate_args=False) == slg_loss(X, wanted, num_classes=3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_labels_of_no_class_are_found_in_every_dtype(dtype):
    """Of 8 bits torch takes 356 for 100 and -156 for 100."""
    labels = torch.full((2, 30), 100, dtype=dtype)
    for ignore_index in (356, -156):
        with pytest.raises(ValueError, match="values 100$"):
            clg_loss(P, labels, ignore_index=ignore_index)
        with pytest.raises(ValueError, match="values 100$"):
            metrics.confusion_matrix(labels, labels, 3, ignore_index=ignore_index)


def test_a_backend_that_is_not_installed_is_refused_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ImportError, match=r"pip install faiss-cpu"):
        knn(X, None, 3, backend="faiss")
    assert knn(X, None, 3, backend="auto").index.shape == (2, 30, 3)


@pytest.mark.gpu
def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="`logits`.*cuda.*got cpu"):
        refiner().cuda()(X.cuda(), Z)
    with pytest.raises(ValueError, match=r"values 7"):
        PrototypeBank(3, 4).cuda().update(X.cuda(), Y.cuda() + 7)
