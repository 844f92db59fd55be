"""Every public entry under awkward input: a correct finite result, or the documented error.

pytest runs some cases of each (test_fuzz.py). Many more, with figures as JSON:

    python tests/fuzz.py --cases 100000 --out tests/results/fuzz.json
"""

import argparse
import inspect
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import reference
import torch
from awkward import BOTH, FINITE, TAME, Refused, call, draw_labels, draw_mask, draw_tensor, spoil_an_argument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import graphcorrect as gc
from graphcorrect.graphs import ClassConsistencyGraph, KNNAffinity
from graphcorrect.labels import one_hot, pool_labels, resize_labels
from graphcorrect.nodes import grid_size, pool_maps
from graphcorrect.propagate import propagate

D, C = 3, 3
NODES = [5, 6, 4, 3, 2, 1, 0]
BATCH = [1, 2, 0]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_finite(*tensors):
    for tensor in tensors:
        assert tensor.isfinite().all(), tensor


def assert_simplex(probabilities, dim=-1):
    assert_finite(probabilities)
    assert (probabilities >= 0).all()
    total = probabilities.double().sum(dim)
    assert_close(total, torch.ones_like(total), rtol=0, atol=TOLERANCE[probabilities.dtype])


def assert_graph(graph, shape):
    """Symmetric, no entry below zero, eigenvalues in [-1, 1]; returns the matrix."""
    dense = graph.to_dense()
    assert dense.shape == shape
    assert_finite(dense)
    assert (dense >= -1e-6).all()
    assert_close(dense, dense.mT, rtol=1e-5, atol=1e-6)
    if dense.numel():
        assert torch.linalg.eigvalsh(dense.double()).abs().max() <= 1 + 1e-5
    edge_index, weight = graph.to_edge_index()
    flat = torch.block_diag(*dense) if len(dense) else dense.reshape(0, 0)
    rebuilt = torch.zeros_like(flat).index_put((edge_index[1], edge_index[0]), weight, accumulate=True)
    assert_close(rebuilt, flat, rtol=1e-5, atol=1e-6)
    return dense


def fuzz_knn(pick):
    batch, num_queries, num_keys = pick(BATCH), pick(NODES), pick(NODES)
    queries, kind = draw_tensor(pick, batch, num_queries, D)
    themselves = pick(BOTH)
    keys, keys_kind = (None, kind) if themselves else draw_tensor(pick, batch, num_keys, D, dtype=queries.dtype)
    num_keys = num_queries if themselves else num_keys
    options = {"exclude_self": pick(BOTH), "normalize": pick(BOTH)}
    options["backend"] = pick(["auto", "torch", "faiss"])
    count = pick(range(0, 7))
    mask = draw_mask(pick, batch, num_keys)
    arguments = {"queries": queries, "keys": keys, "key_mask": mask}
    dims = {"key_mask": -1} if themselves else {"queries": 0, "keys": -1, "key_mask": -1}
    arguments, invalid = spoil_an_argument(pick, arguments, dims)
    invalid |= options["exclude_self"] and num_keys != num_queries
    invalid |= count > (num_keys - 1 if options["exclude_self"] and num_keys else num_keys)
    found = call(gc.knn, num_neighbors=count, **arguments, **options, invalid=invalid)
    queries, mask = arguments["queries"], arguments["key_mask"]
    assert found.similarity.dtype == queries.dtype
    assert found.similarity.shape == found.index.shape == (batch, num_queries, count)
    assert ((found.index >= 0) & (found.index < max(1, num_keys))).all()
    if kind not in TAME or keys_kind not in TAME:
        return
    rows, key_rows = queries.double(), (queries if themselves else keys).double()
    if options["normalize"]:
        rows, key_rows = (torch.nn.functional.normalize(t, dim=-1, eps=1e-300) for t in (rows, key_rows))
    scores = rows @ key_rows.mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if options["exclude_self"]:
        scores = scores.masked_fill(torch.eye(num_keys, dtype=torch.bool), -torch.inf)
    tolerance = max(TOLERANCE[queries.dtype], 1e-5 if options["backend"] == "faiss" else 0)
    expected = scores.topk(count).values
    assert_close(found.similarity.double(), expected, rtol=tolerance, atol=tolerance)
    own = scores.gather(-1, found.index).where(expected > -torch.inf, -torch.inf)
    assert_close(own, expected, rtol=tolerance, atol=tolerance)


def fuzz_affinity(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    features, kind = draw_tensor(pick, batch, num_nodes, D)
    options = {"gamma": pick([1.0, 0.5, 3.0]), "self_loops": pick(BOTH)}
    affinity = KNNAffinity(pick(range(1, 5)), differentiable=pick(BOTH), **options)
    mask = draw_mask(pick, batch, num_nodes)
    arguments, invalid = spoil_an_argument(pick, {"features": features, "mask": mask}, {"mask": -1})
    if not invalid:
        features.requires_grad_()
    too_few = 1 < num_nodes <= affinity.num_neighbors
    graph = call(affinity, **arguments, invalid=invalid or too_few)
    dense = assert_graph(graph, (batch, num_nodes, num_nodes))
    values = torch.randn(batch, num_nodes, 2, dtype=dense.dtype, requires_grad=True)
    (propagate(graph, values).square().sum() + dense.square().sum()).backward()
    assert_finite(values.grad)
    if features.grad is not None and kind in FINITE and kind not in ("tiny", "mixed"):  # a slope of 1 / |x| overflows
        assert_finite(features.grad)
    if mask is not None:
        assert not dense[~(mask[:, :, None] & mask[:, None, :])].any()
    elif kind == "normal" and features.dtype == torch.float64 and num_nodes > 1:
        for mine, rows in zip(dense, features.detach(), strict=True):
            assert_close(mine, reference.eq5_semantic_graph(rows, affinity.num_neighbors, **options))


def fuzz_class_graph(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    logits, _ = draw_tensor(pick, batch, num_nodes, C, kinds=FINITE)
    probabilities = logits.softmax(-1)
    graph = ClassConsistencyGraph(similarity=pick(["dot", "cosine"]), differentiable=pick(BOTH))
    labels, fits = draw_labels(pick, batch, num_nodes, num_classes=C) if pick(BOTH) else (None, True)
    mask = draw_mask(pick, batch, num_nodes)
    arguments = {"probabilities": probabilities, "pseudo_labels": labels, "mask": mask}
    arguments, invalid = spoil_an_argument(pick, arguments, {"pseudo_labels": -1, "mask": -1})
    dense = assert_graph(call(graph, **arguments, invalid=invalid), (batch, num_nodes, num_nodes))
    if mask is None and graph.similarity == "dot" and fits:
        for b in range(batch):
            own = None if labels is None else labels[b]
            if own is not None and (own == 255).any():
                continue
            assert_close(
                dense[b].double(), reference.eq7_class_graph(probabilities[b].double(), own), rtol=1e-4, atol=1e-5
            )


def draw_refiner(pick, **options):
    return gc.DualGraphRefiner(
        C,
        D,
        num_neighbors=2,
        sigma=pick([0.6, 0.0, 1.0]),
        alpha=pick([0.2, 0.0, 1.0]),
        num_rounds=pick(range(0, 3)),
        order=pick(["class_first", "semantic_first", "simultaneous"]),
        propagation=pick(["residual", "residual", "linear"]),
        differentiable=pick(BOTH),
        hidden_dim=4,
        **options,
    )


def check_refined(out, refiner, features, logits, kind):
    """Shapes, dtypes, and where the input is finite the simplex and finite numbers."""
    whole = features.isfinite().flatten(1).all(1) & logits.isfinite().flatten(1).all(1)
    class_dim = 1 if logits.ndim == 4 else -1
    for probabilities in out.probabilities:
        assert (probabilities.shape, probabilities.dtype) == (logits.shape, logits.dtype)
        assert_simplex(probabilities[whole], class_dim)
    for values in out.features:
        assert values.dtype == features.dtype
        sums_raw_features = refiner.propagation == "linear" or values.shape[-2:] != features.shape[-2:]
        if not sums_raw_features or kind not in ("huge", "mixed"):  # such sums may overflow
            assert_finite(values[whole])
    assert out.pseudo_labels.dtype == torch.int64
    assert ((out.pseudo_labels >= 0) & (out.pseudo_labels < C)).all()
    assert ((out.confidence[whole] >= 0) & (out.confidence[whole] <= 1 + 1e-2)).all()


def fuzz_refiner_nodes(pick):
    batch, num_nodes = pick(BATCH), pick(NODES)
    features, kind = draw_tensor(pick, batch, num_nodes, D)
    logits, logits_kind = draw_tensor(pick, batch, num_nodes, C)
    mask = draw_mask(pick, batch, num_nodes)
    refiner = draw_refiner(pick)
    arguments = {"features": features, "logits": logits, "mask": mask}
    arguments, invalid = spoil_an_argument(pick, arguments, {"features": -1, "logits": -1, "mask": -1})
    invalid |= num_nodes == 2 and refiner.num_rounds > 0  # two neighbors among two nodes
    out = call(refiner, **arguments, invalid=invalid)
    check_refined(out, refiner, features, logits, kind)
    tame = kind == logits_kind == "normal" and features.dtype == logits.dtype == torch.float64
    if tame and mask is None and num_nodes > 2 and refiner.propagation == "residual" and batch:
        p, x = reference.algorithm1(
            list(features), list(logits), refiner.num_rounds, 2, 1.0, refiner.alpha, refiner.threshold.sigma,
            refiner.order,
        )  # fmt: skip
        for k in range(refiner.num_rounds + 1):
            assert_close(out.probabilities[k], torch.stack(p[k]), rtol=1e-8, atol=1e-8)
            assert_close(out.features[k], torch.stack(x[k]), rtol=1e-8, atol=1e-8)


def fuzz_refiner_gradients(pick):
    """Finite gradients of every output for finite features of any size but those whose slope 1 / |x| overflows."""
    batch, num_nodes = pick(BATCH), pick([5, 3, 1, 0])
    kinds = (*TAME, "huge")
    refiner = draw_refiner(pick)
    raw = refiner.propagation == "linear"  # sums of raw features can overflow
    features, _ = draw_tensor(pick, batch, num_nodes, D, kinds=TAME if raw else kinds)
    logits, _ = draw_tensor(pick, batch, num_nodes, C, kinds=kinds)
    mask = draw_mask(pick, batch, num_nodes)
    features.requires_grad_(), logits.requires_grad_()
    out = refiner(features, logits, mask=mask)
    sum(t.double().sum() for t in (*out.probabilities, *out.features)).backward()
    assert_finite(features.grad)
    if out.probabilities[0].numel():
        assert_finite(logits.grad)


def fuzz_refiner_images(pick):
    batch = pick(BATCH)
    features, kind = draw_tensor(pick, batch, D, pick(range(3, 6)), pick(range(3, 6)))
    size = pick(range(3, 7)), pick(range(3, 7))
    logits, _ = draw_tensor(pick, batch, C, *size)
    mask = draw_mask(pick, batch, *size)
    refiner = draw_refiner(pick, max_nodes=pick([4096, 12, 4, 1]))
    arguments = {"features": features, "logits": logits, "mask": mask}
    arguments, invalid = spoil_an_argument(pick, arguments, {"features": 1, "logits": 1, "mask": 0})
    cells = math.prod(grid_size(*min((features.shape[2:], size), key=math.prod), refiner.max_nodes))
    invalid |= cells == 2 and refiner.num_rounds > 0  # two neighbors among two nodes
    out = call(refiner, **arguments, invalid=invalid)
    check_refined(out, refiner, features, logits, kind)


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
    if pick(BOTH):
        arguments["prototypes"], _ = draw_tensor(pick, C, D, kinds=FINITE)
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
    if kind == "normal" and reduction == "mean" and features.dtype == torch.float64:
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
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.copy_(draw_tensor(pick, 2, D, kinds=FINITE, dtype=torch.float32)[0])
        model[1].running_mean.copy_(draw_tensor(pick, 1, 2, kinds=FINITE, dtype=torch.float32)[0][0])
    teacher.update(model)
    assert_finite(*teacher.parameters(), *teacher.buffers())
    expected = momentum * before.double() + (1 - momentum) * model[0].weight.double()
    assert_close(teacher.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(teacher.module[1].running_mean, model[1].running_mean)


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


ENTRIES = {name.removeprefix("fuzz_"): function for name, function in list(globals().items()) if name[:5] == "fuzz_"}


def run(name, examples):
    """Runs an entry on as many cases of hypothesis, which makes a failing one small; counts answers and refusals."""
    counts = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def cases(data):
        counts[outcome(name, lambda values: data.draw(st.sampled_from(values)))] += 1

    cases()
    return counts


def outcome(name, pick):
    try:
        ENTRIES[name](pick)
    except Refused:
        return "refused"
    return "answered"


def run_case(name, number):
    """One random case, the same one for the same number; many times faster than hypothesis's."""
    torch.manual_seed(number)
    return outcome(name, random.Random(f"{name} {number}").choice)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="of all entries together")
    parser.add_argument("--entry", choices=list(ENTRIES), action="append", help="default: all")
    parser.add_argument("--case", type=int, help="only this one, and its error")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = args.entry or list(ENTRIES)
    if args.case is not None:
        print([run_case(name, args.case) for name in entries])
        return
    record = {"failures": [], "entries": {}}
    if args.out and args.out.is_file():  # entries that are not run again stay as they are
        record = json.loads(args.out.read_text())
    record |= {"torch": torch.__version__, "graphcorrect": gc.__version__}
    for name in entries:
        record["failures"] = [line for line in record["failures"] if not line.startswith(f"{name} ")]
        counts = Counter()
        for number in range(args.cases // len(entries)):
            try:
                counts[run_case(name, number)] += 1
            except (Exception, pytest.fail.Exception) as error:
                counts["failed"] += 1
                record["failures"].append(f"{name} --case {number}: {type(error).__name__}: {error}"[:200])
        record["entries"][name] = dict(counts)
        record["cases"] = sum(sum(found.values()) for found in record["entries"].values())
        print(name, dict(counts), flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(*record["failures"], sep="\n")


if __name__ == "__main__":
    main()
