"""What went wrong in well-known tools does not go wrong here: a test for each lesson, named after it.

Some first show the failure itself, in the library that has it, so that the lesson is known to be a real one.
"""

import contextlib
import subprocess
import sys
import types

import pytest
import torch
from strategies import random_features, random_labels, random_logits
from torch import nn

import graphcorrect.distributed
from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    DualGraphRefiner,
    DynamicThreshold,
    EMATeacher,
    KNNAffinity,
    LabelCorrectionLoss,
    PrototypeBank,
    clg_loss,
    knn,
    metrics,
    slg_loss,
)
from graphcorrect.labels import one_hot
from graphcorrect.ops.kernels import faiss as faiss_search

X = random_features(2, 12, 4, dtype=torch.float32)
Z = random_logits(2, 12, 3, dtype=torch.float32)
Y = random_labels(2, 12, num_classes=3)


def test_faiss_can_be_slower_so_auto_does_not_take_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def refuse(*args, **kwargs):
        raise AssertionError("auto has asked faiss")

    monkeypatch.setattr(faiss_search, "search", refuse)
    assert knn(X, None, 3).index.shape == (2, 12, 3)
    with pytest.raises(AssertionError, match="asked faiss"):
        knn(X, None, 3, backend="faiss")


def test_faiss_reads_on_the_callers_stream_and_device(monkeypatch):
    """Its own stream may read queries that are not written yet: the search runs inside both contexts."""
    entered = []

    @contextlib.contextmanager
    def entering(name):
        entered.append(name)
        yield
        entered.remove(name)

    def knn_gpu(resources, queries, keys, count, *, metric, device):
        assert entered == ["device cuda:1", "stream of res"]
        assert device == 1
        return torch.zeros(1, count), torch.zeros(1, count, dtype=torch.int64)

    torch_utils = types.SimpleNamespace(using_stream=lambda res: entering(f"stream of {res}"))
    monkeypatch.setitem(sys.modules, "faiss.contrib", types.SimpleNamespace(torch_utils=torch_utils))
    monkeypatch.setitem(sys.modules, "faiss.contrib.torch_utils", torch_utils)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entering(f"device {device}"))
    monkeypatch.setattr(faiss_search, "_require_working_gpu", lambda: None)
    fake = types.SimpleNamespace(knn_gpu=knn_gpu, METRIC_INNER_PRODUCT=0)
    monkeypatch.setattr(faiss_search, "require", lambda: fake)
    monkeypatch.setattr(faiss_search, "_resources", lambda index: "res")
    queries = types.SimpleNamespace(device=torch.device("cuda", 1))
    values, _ = faiss_search._find_cuda(queries, queries, 2)
    assert values.shape == (1, 2)
    assert entered == []


@pytest.mark.gpu
def test_faiss_waits_for_queries_that_a_side_stream_is_still_writing():
    rows = torch.randn(4000, 64, device="cuda")
    expected = knn(rows, None, 5).similarity
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.empty_like(rows)
        torch.cuda._sleep(50_000_000)
        late.copy_(rows)
        found = knn(late, None, 5, backend="faiss").similarity
    torch.testing.assert_close(found, expected)


def test_a_gpu_wheel_that_aborts_takes_its_own_process_down_and_not_ours(monkeypatch):
    pytest.importorskip("faiss")
    asked = []
    run = subprocess.run

    def probe(command, **options):
        asked.append(command)
        return run(command, **options)

    monkeypatch.setattr(faiss_search, "_GPU_PROBE", "import os; os.abort()")
    monkeypatch.setattr(faiss_search, "require", lambda: types.SimpleNamespace(knn_gpu=0, StandardGpuResources=0))
    monkeypatch.setattr(subprocess, "run", probe)
    faiss_search.gpu_works.cache_clear()
    try:
        assert not faiss_search.gpu_works()
        with pytest.raises(ImportError, match="kernels for this GPU"):
            faiss_search._require_working_gpu()
    finally:
        faiss_search.gpu_works.cache_clear()
    assert len(asked) == 1  # probed once, however often asked


def test_torch_scatter_takes_minutes_to_compile_so_nothing_needs_it():
    code = (
        "import sys\n"
        "for name in ('torch_scatter', 'torch_sparse', 'pyg_lib', 'faiss', 'triton', 'matplotlib', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import torch, graphcorrect\n"
        "out = graphcorrect.DualGraphRefiner(3, 4, num_neighbors=2)(torch.randn(1, 9, 4), torch.randn(1, 9, 3))\n"
        "assert out.pseudo_labels.shape == (1, 9)\n"
        "assert 'torch_geometric' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_255_in_one_hot_is_a_row_of_zeros_and_no_assert():
    labels = torch.tensor([0, 255, 2])
    with pytest.raises(RuntimeError, match=r"[Cc]lass values must be smaller"):  # on a GPU: a device assert
        nn.functional.one_hot(labels, 3)
    assert one_hot(labels, 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_255_reaches_no_index_of_any_layer(device):
    features, labels, probabilities = X.to(device), torch.full_like(Y, 255).to(device), Z.softmax(-1).to(device)
    labels[0, 0] = 1
    assert slg_loss(features, labels, features[0, :3]).isfinite()
    assert clg_loss(probabilities, labels).isfinite()
    for bank in (PrototypeBank(3, 4).to(device), AnchorBank(3, 4).to(device)):
        bank.update(features, labels)
    assert ClassConsistencyGraph()(probabilities, labels).degree().isfinite().all()
    assert metrics.confusion_matrix(labels.clamp(max=2), labels, 3).sum() == 1


@pytest.fixture
def collectives(monkeypatch):
    """A pretended second rank; lists the collectives that this one asks for, with their shapes and dtypes."""
    asked = []

    def all_reduce(tensor):
        asked.append(("all_reduce", tuple(tensor.shape), tensor.dtype))

    def all_gather(parts, tensor):
        asked.append(("all_gather", tuple(tensor.shape[1:]), tensor.dtype))
        for part in parts:
            part.copy_(tensor)

    fake = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 0,
        all_reduce=all_reduce, all_gather=all_gather,
    )  # fmt: skip
    monkeypatch.setattr(graphcorrect.distributed, "dist", fake)
    return asked


SHARES = {
    "a full rank": (X, Z, Y),
    "no images": (X[:0], Z[:0], Y[:0]),
    "no labels": (X, Z, torch.full_like(Y, 255)),
    "one class": (X, Z, torch.zeros_like(Y)),
    "nobody confident": (X, torch.zeros_like(Z), Y),
    "a NaN": (X.masked_fill(X > 1, torch.nan), Z.masked_fill(Z > 3, torch.nan), Y),
}


@pytest.mark.filterwarnings("ignore:expected .prototypes. with a row that is not zero:UserWarning")
@pytest.mark.parametrize("share", list(SHARES)[1:])
def test_a_rank_that_returns_early_hangs_the_rest_so_all_ask_for_the_same(collectives, share):
    """The collectives of a step are the same in number, order, shape and dtype, whatever a rank holds."""
    asked = {}
    for name in ("a full rank", share):
        features, logits, labels = SHARES[name]
        collectives.clear()
        out = DualGraphRefiner(3, 4, num_neighbors=3)(features, logits)
        bank, anchors = PrototypeBank(3, 4), AnchorBank(3, 4)
        bank.update(features, labels)
        anchors.update(features, labels)
        LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes[:1].expand(2, -1, -1))
        asked[name] = list(collectives)
    assert len(asked["a full rank"]) >= 6
    assert asked[share] == asked["a full rank"]


def test_an_average_of_parameters_without_batchnorm_buffers_ruins_the_teacher():
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    teacher = EMATeacher(student, momentum=0.9)
    data = torch.randn(64, 4) * 5 + 10  # far from the statistics that BatchNorm starts with
    for _ in range(200):
        student(data)
        teacher.update(student)
    right = student.eval()(data)
    stale = nn.Sequential(student[0], nn.BatchNorm1d(8), student[2]).eval()(data)
    assert (stale - right).abs().mean() > 1  # the failure: the same weights, stale statistics
    torch.testing.assert_close(teacher(data), right, rtol=1e-5, atol=1e-5)


def test_memory_banks_that_are_not_in_the_state_dict_vanish_on_resume():
    def used():
        layers = nn.ModuleList(
            [DynamicThreshold(3, 0.5, accumulate=True), PrototypeBank(3, 4), AnchorBank(3, 4, capacity_per_class=5)]
        )
        return layers

    saved = used()
    saved[0].update(Z.softmax(-1))
    saved[1].update(X, Y, round=1)
    saved[2].update(X, Y)
    # Every tensor that a layer holds is saved: there is none beside the parameters and the persistent buffers.
    for layer in [*saved, DualGraphRefiner(3, 4), DualGraphRefiner.from_preset("released", 3, 4)]:
        held = {
            f"{prefix}.{name}".lstrip(".")
            for prefix, module in layer.named_modules()
            for name, value in [*vars(module).items(), *module._buffers.items(), *module._parameters.items()]
            if isinstance(value, torch.Tensor)
        }
        assert held == set(layer.state_dict())
    resumed = used()
    resumed.load_state_dict(saved.state_dict())
    assert torch.equal(resumed[0](Z.softmax(-1)), saved[0](Z.softmax(-1)))
    assert torch.equal(resumed[1](1)[0], saved[1](1)[0])
    assert torch.equal(resumed[2](X), saved[2](X))
    # and goes on as if nothing had happened
    for layers in (saved, resumed):
        layers[1].update(X + 1, Y, round=1)
        layers[2].update(X + 1, Y)
    for mine, wanted in zip(resumed.state_dict().values(), saved.state_dict().values(), strict=True):
        assert torch.equal(mine, wanted)


def test_batchnorm_fails_on_a_batch_of_one_and_there_is_none_in_the_refiner():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3).train()(torch.randn(1, 3, 1, 1))  # the pooling branch of an ASPP
    refiner = DualGraphRefiner(3, 4).train()
    out = refiner(torch.randn(1, 4, 1, 1, requires_grad=True), torch.randn(1, 3, 1, 1))
    out.features[-1].sum().backward()
    assert out.soft_labels.isfinite().all()
    assert not [m for m in refiner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [2, 255, 255, 255], [255] * 4, [1, 1, 1, 1]])
@pytest.mark.parametrize("with_prototypes", [False, True])
def test_contrastive_losses_give_nan_without_positives(labels, with_prototypes):
    """No node has a partner, a single node, no node at all, and no negatives either."""
    features = torch.randn(1, 4, 5, requires_grad=True)
    prototypes = torch.randn(4, 5) if with_prototypes else None
    mask = torch.tensor([False, True, False, False]) if with_prototypes else None
    loss = slg_loss(features, torch.tensor([labels]), prototypes, mask, num_classes=4)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert (loss > 0) == (labels != [255] * 4)


def test_indexing_by_position_among_present_classes_trains_the_wrong_class():
    """Class 1 is absent: what is learned for class 2 is stored, compared and thresholded as class 2."""
    features = torch.eye(3).repeat_interleave(4, 0)[None]  # three groups at right angles
    labels = torch.tensor([0] * 4 + [2] * 4 + [4] * 4)[None]
    bank = PrototypeBank(5, 3)
    bank.update(features, labels)
    assert bank.is_initialized[0].tolist() == [True, False, True, False, True]
    assert bank.prototypes[0].argmax(1)[[0, 2, 4]].tolist() == [0, 1, 2]
    right = slg_loss(features, labels, bank.prototypes[0], bank.is_initialized[0], balance=0.0)
    assert right < 1e-3  # every node next to its own prototype
    shifted = torch.tensor([0] * 4 + [4] * 4 + [2] * 4)[None]
    assert slg_loss(features, shifted, bank.prototypes[0], bank.is_initialized[0], balance=0.0) > 1
    anchors = AnchorBank(5, 3, num_neighbors=2)
    anchors.update(features, labels)
    assert anchors(features).argmax(-1).tolist() == labels.tolist()
    logits = torch.zeros(1, 12, 5).scatter_(2, labels[..., None], 20.0)
    logits[0, 8:, 4] = 20.0 * torch.tensor([1.0, 0.0, 0.0, 0.0])  # one confident node of class 4
    threshold = DynamicThreshold(5)(logits.softmax(-1))
    torch.testing.assert_close(threshold, 0.95 * torch.tensor([1, 0, 1, 0, 0.25]))


def test_duplicates_of_a_node_are_neighbors_though_the_node_itself_is_none():
    """Dropping the first column instead of the diagonal loses a duplicate and keeps the node."""
    features = torch.ones(1, 4, 3)
    found = knn(features, None, 3, exclude_self=True)
    for node in range(4):
        assert sorted(found.index[0, node].tolist()) == [other for other in range(4) if other != node]
    assert torch.equal(KNNAffinity(3)(features).to_dense().diagonal(dim1=1, dim2=2), torch.zeros(1, 4))
