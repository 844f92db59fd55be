"""Fuzzing of thresholds, banks, losses, metrics, labels and arguments: see fuzz.py."""

import inspect

import pytest
import reference
import torch
from awkward import (
    BATCH,
    BOTH,
    FINITE,
    NODES,
    TAME,
    C,
    D,
    Refused,
    assert_finite,
    assert_simplex,
    call,
    draw_labels,
    draw_mask,
    draw_tensor,
    spoil_an_argument,
)
from fuzz_graphs import draw_refiner
from torch.testing import assert_close

import graphcorrect as gc
from graphcorrect.labels import one_hot, pool_labels, resize_labels
from graphcorrect.nodes import grid_size, pool_maps


def fuzz_threshold(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    logits, _ = draw_tensor(pick, batch, num_nodes, C)
    probabilities, mask = logits.softmax(-1), draw_mask(pick, batch, num_nodes)
    sigma = pick([0.0, 0.5, 0.95, 1.0])
    arguments = {"probabilities": probabilities, "mask": mask}
    arguments, invalid = spoil_an_argument(pick, arguments, {"probabilities": -1, "mask": -1})
    layer = gc.DynamicThreshold(C, sigma)
    threshold = call(layer, **arguments, invalid=invalid)
    assert ((threshold >= 0) & (threshold <= sigma)).all()
    confident = layer.is_confident(**arguments)
    assert (confident.shape, confident.dtype) == ((batch, num_nodes), torch.bool)
    if mask is None and probabilities.isfinite().all():
        expected = reference.eq9_thresholds(probabilities.double(), sigma)
        assert_close(threshold.double(), expected, rtol=1e-6, atol=1e-6)


def fuzz_prototypes(pick):
    batch, num_nodes, rounds = pick(BATCH), pick(NODES), pick(range(1, 3))
    bank = gc.PrototypeBank(C, D, num_rounds=rounds, momentum=pick([0.9, 0.0, 1.0]))
    old = [[None] * C for _ in range(rounds)]
    for _ in range(2):
        features, kind = draw_tensor(pick, batch, num_nodes, D)
        labels, fits = draw_labels(pick, batch, num_nodes, num_classes=C)
        number = pick(range(0, 3))
        arguments = {"features": features, "labels": labels}
        arguments, invalid = spoil_an_argument(pick, arguments, {"features": -1, "labels": -1})
        call(bank.update, **arguments, round=number, invalid=invalid or not fits or number >= rounds)
        assert_finite(bank.prototypes)
        if kind not in TAME:
            return
        rows, row_labels = features.reshape(-1, D).double(), labels.reshape(-1).long()
        means = reference.eq13_class_means(rows, row_labels, C)
        old[number] = reference.eq14_moving_average(old[number], means, bank.momentum)
    for number in range(rounds):
        for c in range(C):
            assert bank.is_initialized[number, c] == (old[number][c] is not None)
            if old[number][c] is not None:
                assert_close(bank.prototypes[number, c].double(), old[number][c], rtol=1e-4, atol=1e-4)


def fuzz_anchors(pick):
    num_nodes = pick(NODES)
    bank = gc.AnchorBank(
        C, D, capacity_per_class=pick(range(1, 5)), num_neighbors=pick(range(1, 6)),
        decay=pick([1.0, 0.5]), strength=pick([0.5, 0.0, 3.0]),
    )  # fmt: skip
    for _ in range(pick(range(1, 3))):
        features, _ = draw_tensor(pick, 2, num_nodes, D)
        labels, fits = draw_labels(pick, 2, num_nodes, num_classes=C)
        arguments, invalid = spoil_an_argument(
            pick, {"features": features, "labels": labels}, {"features": -1, "labels": -1}
        )
        call(bank.update, **arguments, invalid=invalid or not fits)
    assert_finite(bank.features)
    assert (bank.counts <= bank.capacity_per_class).all()
    if bank.counts.sum() == 0:
        with pytest.raises(RuntimeError, match="update"):
            bank(features)
        raise Refused
    queries, _ = draw_tensor(pick, 2, num_nodes, D)
    logits, _ = draw_tensor(pick, 2, num_nodes, C, kinds=FINITE)
    arguments = {"probabilities": logits.softmax(-1), "features": queries}
    arguments, invalid = spoil_an_argument(pick, arguments, {"probabilities": -1, "features": -1})
    corrected = call(bank.correct, **arguments, invalid=invalid)
    good = queries.isfinite().all(-1)
    assert_simplex(bank(queries)[good])
    assert_simplex(corrected[good])


def fuzz_slg(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    features, kind = draw_tensor(pick, batch, num_nodes, D, kinds=FINITE)
    labels, fits = draw_labels(pick, batch, num_nodes, num_classes=C)
    options = {"balance": pick([0.5, 0.0, 1.0]), "temperature": pick([0.1, 1e-3])}
    arguments = {"features": features, "labels": labels, "prototypes": None, "prototype_mask": None}
    kinds = {kind}
    if pick(BOTH):
        arguments["prototypes"], prototype_kind = draw_tensor(pick, C, D, kinds=FINITE)
        kinds.add(prototype_kind)
        arguments["prototype_mask"] = draw_mask(pick, C)
    known = arguments["prototype_mask"]
    prototypes = arguments["prototypes"]
    arguments, invalid = spoil_an_argument(
        pick, arguments, {"features": -2, "labels": -1, "prototypes": -1, "prototype_mask": -1}
    )
    if not invalid:
        features.requires_grad_()
    reduction = pick(["mean", "sum", "none"])
    loss = call(gc.slg_loss, **arguments, **options, num_classes=C, reduction=reduction, invalid=invalid or not fits)
    assert loss.shape == ((batch,) if reduction == "none" else ())
    assert_finite(loss)
    loss.sum().backward()
    if kind not in ("tiny", "mixed"):
        assert_finite(features.grad)
    # The naive reference squares numbers as they are: of tiny ones it makes zero rows.
    if kinds == {"normal"} and reduction == "mean" and features.dtype == torch.float64:
        wide = None if prototypes is None else prototypes.double()
        wanted = reference.eq12_slg(list(features.detach()), list(labels), wide, known, **options) if batch else 0.0
        assert_close(loss.detach(), torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def fuzz_clg(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    logits, _ = draw_tensor(pick, batch, num_nodes, C, kinds=FINITE)
    labels, fits = draw_labels(pick, batch, num_nodes, num_classes=C)
    arguments = {"probabilities": logits.softmax(-1), "pseudo_labels": labels}
    arguments, invalid = spoil_an_argument(pick, arguments, {"probabilities": -2, "pseudo_labels": -1})
    weighted = pick(BOTH)
    probabilities = arguments["probabilities"]
    if not invalid:
        probabilities.requires_grad_()
    loss = call(gc.clg_loss, **arguments, self_weighted=weighted, invalid=invalid or not fits)
    assert_finite(loss)
    loss.backward()
    if weighted or probabilities.dtype != torch.float16:  # a slope of 1 / p passes 65504
        assert_finite(probabilities.grad)
    rows, row_labels = probabilities.detach().reshape(-1, C).double(), labels.reshape(-1).long()
    if probabilities.dtype == torch.float64 and (rows > 0).all():
        assert_close(loss.detach(), reference.eq15_clg(rows, row_labels, weighted).double(), rtol=1e-9, atol=1e-9)


def fuzz_correction_loss(pick):
    batch, num_nodes = pick(BATCH), pick([5, 3, 1, 0])
    refiner = draw_refiner(pick)
    kinds = FINITE if refiner.propagation == "residual" else TAME  # sums of raw features can overflow
    features, kind = draw_tensor(pick, batch, num_nodes, D, kinds=kinds)
    logits, _ = draw_tensor(pick, batch, num_nodes, C, kinds=FINITE)
    labels, fits = draw_labels(pick, batch, num_nodes, num_classes=C)
    prototypes, _ = draw_tensor(pick, 2, C, D, kinds=FINITE)
    features.requires_grad_(), logits.requires_grad_()
    out = refiner(features, logits)
    loss = call(gc.LabelCorrectionLoss(), out, labels, prototypes=prototypes, invalid=not fits)
    assert_finite(*loss)
    loss.total.backward()
    if kind not in ("tiny", "mixed") and features.grad is not None:
        assert_finite(features.grad)


def fuzz_teacher(pick):
    model = torch.nn.Sequential(torch.nn.Linear(D, 2), torch.nn.BatchNorm1d(2))
    momentum = pick([0.0, 0.5, 0.999, 1.0, -0.1, 1.1])
    teacher = call(gc.EMATeacher, model, momentum=momentum, invalid=not 0 <= momentum <= 1)
    before, mean = model[0].weight.detach().clone(), model[1].running_mean.clone()
    with torch.no_grad():
        model[0].weight.copy_(draw_tensor(pick, 2, D, kinds=FINITE, dtype=torch.float32)[0])
        model[1].running_mean.copy_(draw_tensor(pick, 1, 2, kinds=FINITE, dtype=torch.float32)[0][0])
    teacher.update(model)
    assert_finite(*teacher.parameters(), *teacher.buffers())
    expected = momentum * before.double() + (1 - momentum) * model[0].weight.double()
    assert_close(teacher.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    expected = momentum * mean.double() + (1 - momentum) * model[1].running_mean.double()
    assert_close(teacher.module[1].running_mean.double(), expected, rtol=1e-5, atol=1e-6)


def fuzz_metrics(pick):
    size = pick(range(0, 8))
    predictions, labels = (draw_labels(pick, size, num_classes=C)[0] for _ in range(2))
    arguments, invalid = spoil_an_argument(
        pick, {"predictions": predictions, "labels": labels}, {"predictions": -1, "labels": -1}
    )
    if not invalid:
        outside = ~((labels >= 0) & (labels < C) | (labels == 255))
        counted = labels != 255
        guesses = predictions[counted]
        invalid = bool(outside.any()) or bool(((guesses < 0) | (guesses >= C)).any())
    confusion = call(gc.metrics.confusion_matrix, **arguments, num_classes=C, invalid=invalid)
    assert confusion.sum() == (labels != 255).sum()
    iou = gc.metrics.per_class_iou(confusion)
    for mine, wanted in zip(iou.tolist(), reference.iou_per_class(predictions, labels, C), strict=True):
        assert (mine != mine) if wanted is None else abs(mine - wanted) < 1e-12
    changed = gc.metrics.correction_counts(predictions, labels, labels)
    assert (changed.total, changed.broken) == (int(confusion.sum()), 0)
    assert changed.fixed == changed.changed == int(confusion.sum() - confusion.diagonal().sum())


def fuzz_labels(pick):
    size, to = [(pick(range(1, 7)), pick(range(1, 7))) for _ in range(2)]
    labels, fits = draw_labels(pick, pick(BATCH), *size, num_classes=C)
    for resized in (resize_labels(labels, to), pool_labels(labels, to, C)):
        assert (resized.shape, resized.dtype) == ((len(labels), *to), labels.dtype)
        assert set(resized.unique().tolist()) <= {*labels.unique().tolist(), 255}
    rows = call(one_hot, labels, C, invalid=not fits)
    assert_close(rows.sum(-1), (labels != 255).float())
    rows, columns = grid_size(*size, pick(range(1, 41)))
    assert 1 <= rows <= size[0]
    assert 1 <= columns <= size[1]
    maps, _ = draw_tensor(pick, len(labels), D, *size, kinds=TAME, dtype=torch.float32)
    assert_finite(pool_maps(maps, (rows, columns), labels != 255))


def fuzz_arguments(pick):
    """Numbers and words that are no settings: refused at construction, with the argument's name."""
    wrong = {
        "num_classes": [0, -1, 2.0, None, "3", True],
        "feature_dim": [0, -3, 1.5, None],
        "num_neighbors": [0, -1, 2.5, None],
        "num_rounds": [-1, 1.0, None],
        "alpha": [-0.1, 1.1, float("nan"), float("inf"), None, "a"],
        "sigma": [-0.1, 1.1, float("nan"), None],
        "gamma": [0.0, -1.0, float("nan"), float("inf"), None],
        "order": ["both", None, 3],
        "propagation": ["mlp", None],
        "class_similarity": ["l2", None],
        "label_rounds": ["first", None],
        "backend": ["annoy", None],
        "max_nodes": [0, -5, 10.0],
        "momentum": [-0.1, 1.5, float("nan"), None],
        "capacity_per_class": [0, 2.5],
        "temperature": [0.0, -1.0, float("nan"), float("inf"), None],
        "strength": [-1.0, float("nan"), float("inf")],
        "eps": [0.0, 1.5, float("nan")],
        "decay": [0.0, 1.5, float("nan")],
        "balance": [-0.5, 1.5, float("nan")],
        "reduction": ["avg", None],
        "slg_weight": [-1.0, float("nan"), float("inf")],
        "clg_weight": [-1.0, float("nan"), float("inf")],
        "similarity": ["l2", None],
        "hidden_dim": [0, 1.5],
        "depth": [-1, 1.5],
    }
    classes = [
        gc.AnchorBank, gc.CLGLoss, gc.ClassConsistencyGraph, gc.DualGraphRefiner, gc.DynamicThreshold, gc.KNNAffinity,
        gc.LabelCorrectionLoss, gc.PrototypeBank, gc.SLGLoss,
    ]  # fmt: skip
    layer = pick(classes)
    required = {"num_classes": 3, "feature_dim": 4}
    parameters = [name for name in inspect.signature(layer).parameters if name in wrong]
    name = pick(parameters)
    value = pick(wrong[name])
    given = {key: number for key, number in required.items() if key in parameters}
    call(layer, **{**given, name: value}, invalid=True)
