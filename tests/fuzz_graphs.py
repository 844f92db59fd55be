"""Fuzzing of the search, the graphs and the refiner: see fuzz.py."""

import importlib.util

import reference
import torch
from awkward import (
    BATCH,
    BOTH,
    FINITE,
    NODES,
    TAME,
    TOLERANCE,
    C,
    D,
    assert_finite,
    assert_simplex,
    call,
    draw_labels,
    draw_mask,
    draw_tensor,
    spoil_an_argument,
)
from torch.testing import assert_close

import graphcorrect as gc
from graphcorrect.functional import propagate
from graphcorrect.graphs import ClassConsistencyGraph, KNNAffinity

BACKENDS = ["auto", "torch", "faiss"] if importlib.util.find_spec("faiss") else ["auto", "torch"]


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
    options["backend"] = pick(BACKENDS)
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
    graph = call(affinity, **arguments, invalid=invalid)
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
    propagation = pick(["residual", "residual", "linear"])
    if propagation == "residual":  # the linear map has no hidden entries, and refuses to be given some
        options["hidden_dim"] = 4
    return gc.DualGraphRefiner(
        C,
        D,
        num_neighbors=2,
        sigma=pick([0.6, 0.0, 1.0]),
        alpha=pick([0.2, 0.0, 1.0]),
        num_rounds=pick(range(0, 3)),
        order=pick(["class_first", "semantic_first", "simultaneous"]),
        propagation=propagation,
        differentiable=pick(BOTH),
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
    (height, width), size = (sorted((pick(range(3, last)), pick(range(3, last)))) for last in (6, 7))
    features, kind = draw_tensor(pick, batch, D, height, width)
    logits, _ = draw_tensor(pick, batch, C, *size)  # none that lies across the features
    mask = draw_mask(pick, batch, *size)
    refiner = draw_refiner(pick, max_nodes=pick([4096, 12, 4, 1]))
    arguments = {"features": features, "logits": logits, "mask": mask}
    arguments, invalid = spoil_an_argument(pick, arguments, {"features": 1, "logits": 1, "mask": 0})
    out = call(refiner, **arguments, invalid=invalid)
    check_refined(out, refiner, features, logits, kind)
