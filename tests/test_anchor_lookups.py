"""Look-ups of anchors that are approximate or skipped: what they find of an exact one's, and what they refuse."""

import copy

import pytest
import torch
from small_bank import filled_bank
from strategies import random_features, random_labels, random_logits

from graphcorrect import AnchorBank


def clustered(count, seed, num_clusters=40, width=16):
    """Rows close to one of `num_clusters` directions, and the number of the cluster."""
    centers = random_features(num_clusters, width, seed=77)
    cluster = random_labels(count, num_classes=num_clusters, seed=seed)
    return centers[cluster] + 0.3 * random_features(count, width, seed=seed + 1), cluster


def recall(bank, exact, queries):
    """Share of the truly nearest anchors that a bank finds."""
    found, true = (
        each._packed().nearest(queries, 10, backend="torch", num_probes=each.num_probes)[1] for each in (bank, exact)
    )
    return (found[:, :, None] == true[:, None]).any(1).double().mean().item()


@pytest.mark.parametrize(
    ("options", "least"), [({"num_probes": 1}, 0.3), ({}, 0.95), ({"num_lists": 10, "num_probes": 10}, 0.98)]
)
def test_lists_find_most_of_the_nearest_anchors(options, least):
    pytest.importorskip("faiss")
    keys, cluster = clustered(4000, 1)
    exact = AnchorBank(4, 16).double()
    exact.update(keys, cluster % 4)
    bank = AnchorBank(4, 16, index="ivf", **options).double()
    bank.load_state_dict(exact.state_dict())
    queries, cluster = clustered(200, 5)
    assert least <= recall(bank, exact, queries) <= 1.0
    assert (bank(queries).argmax(1) == cluster % 4).double().mean() > 0.99
    if "num_lists" in options:  # all of them are read, in half precision
        torch.testing.assert_close(bank(queries), exact(queries), rtol=0.0, atol=0.02)


def test_lists_are_made_anew_after_an_update():
    pytest.importorskip("faiss")
    bank = AnchorBank(2, 2, index="ivf")
    bank.update(torch.eye(2), torch.tensor([0, 1]))
    assert bank(torch.eye(2)).argmax(1).tolist() == [0, 1]
    first = bank._packed().index
    bank(torch.eye(2))
    assert bank._packed().index is first
    bank.update(-torch.eye(2), torch.tensor([1, 0]))
    assert bank(-torch.eye(2)).argmax(1).tolist() == [1, 0]
    assert copy.deepcopy(bank)(torch.eye(2)).argmax(1).tolist() == [0, 1]


def test_lists_are_made_once_in_inference_mode():
    pytest.importorskip("faiss")
    with torch.inference_mode():
        bank = AnchorBank(2, 2, index="ivf").float()
        bank.update(torch.eye(2), torch.tensor([0, 1]))
        assert bank(torch.eye(2)).argmax(1).tolist() == [0, 1]
        first = bank._packed().index
        bank(torch.eye(2))
        assert bank._packed().index is first
        bank.update(-torch.eye(2), torch.tensor([1, 0]))
        assert bank(-torch.eye(2)).argmax(1).tolist() == [1, 0]
        second = bank._packed().index
    assert bank._packed().index is second
    bank.update(torch.tensor([[-1.0, 0.1]]), torch.tensor([0]))
    bank(torch.eye(2))
    assert bank._packed().index is not second


def test_lists_with_fewer_anchors_than_neighbors_answer_all_the_same():
    pytest.importorskip("faiss")
    bank = AnchorBank(2, 3, index="ivf", num_lists=6, num_probes=1, num_neighbors=5)
    bank.update(random_features(6, 3, dtype=torch.float32), torch.tensor([0, 1] * 3))
    queries = torch.cat([random_features(4, 3, dtype=torch.float32), torch.zeros(1, 3), torch.full((1, 3), torch.nan)])
    posterior = bank(queries)
    torch.testing.assert_close(posterior.sum(1), torch.ones(6))


def test_lists_without_faiss_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"index=\"ivf\" needs faiss: pip install faiss-cpu"):
        AnchorBank(2, 2, index="ivf")


@pytest.mark.gpu
def test_lists_refuse_a_gpu():
    bank = AnchorBank(2, 2, index="ivf").cuda()
    bank.update(torch.eye(2).cuda(), torch.tensor([0, 1]).cuda())
    with pytest.raises(ValueError, match="on the CPU for index"):
        bank(torch.eye(2).cuda())


@pytest.mark.parametrize("shape", [(50, 5), (2, 25, 5), (2, 5, 3, 4)])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_certain_nodes_may_be_skipped_and_no_label_changes(shape, strength):
    bank, keys, labels = filled_bank(strength=strength)
    skipping, _, _ = filled_bank(strength=strength, skip_certain=True)
    class_dim = 1 if len(shape) == 4 else -1
    queries = random_features(*shape)
    classes = [4 if d == 5 else d for d in shape]
    probabilities = random_logits(*classes, scale=4.0).softmax(class_dim).requires_grad_()
    every, some = bank.correct(probabilities, queries), skipping.correct(probabilities, queries)
    assert torch.equal(every.argmax(class_dim), some.argmax(class_dim))
    best = probabilities.topk(2, dim=class_dim).values
    is_certain = best.select(class_dim, 0) > (1.1 / 0.1) ** strength * best.select(class_dim, 1)
    assert 0 < is_certain.sum() < is_certain.numel()
    expected = torch.where(is_certain.unsqueeze(class_dim), probabilities, every)
    torch.testing.assert_close(some, expected)
    some.square().sum().backward()
    assert probabilities.grad.isfinite().all()
    one = AnchorBank(1, 5, skip_certain=True).double()
    one.update(keys, labels * 0)
    assert torch.equal(one.correct(torch.ones(3, 1).double(), keys[:3]), torch.ones(3, 1).double())


def test_writes_that_torch_does_not_count_are_seen():
    """As mean teachers make them through `.data`, and collectives."""
    (bank, *_), queries = filled_bank(), random_features(5, 5)
    other = AnchorBank(4, 5).double()
    other.update(random_features(40, 5, seed=5), random_labels(40, num_classes=4, seed=6))
    bank(queries)
    for mine, theirs in zip(bank.buffers(), other.buffers(), strict=True):
        mine.data.copy_(theirs)
    assert torch.equal(bank(queries), other(queries))


def test_refresh_packs_the_anchors_anew():
    (bank, *_), queries = filled_bank(), random_features(5, 5)
    first = bank(queries)
    packed = bank._packed()
    assert bank._packed() is packed
    bank.refresh()
    assert bank._packed() is not packed
    assert torch.equal(bank(queries), first)


def test_votes_are_no_part_of_a_graph():
    pytest.importorskip("faiss")
    bank, *_ = filled_bank(index="ivf")
    votes = bank.votes(random_features(5, 5).requires_grad_(), [0.1])
    assert not votes[0.1].requires_grad
