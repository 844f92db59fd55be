"""AnchorBank: a class-balanced sample of labeled nodes, and what the nearest of them say about a query."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import orthogonal_clusters, random_features, random_labels, random_logits

from graphcorrect.anchors import AnchorBank


def filled_bank(num_anchors=40, num_classes=4, width=5, **options):
    """A float64 bank that holds all it was offered, with classes of unequal size, and what it was offered."""
    keys = random_features(num_anchors, width, seed=3)
    labels = random_labels(num_anchors, num_classes=num_classes, seed=4) ** 2 % num_classes
    bank = AnchorBank(num_classes, width, **options).double()
    bank.update(keys, labels)
    return bank, keys, labels


@pytest.mark.parametrize("num_neighbors", [1, 7, 40, 1000])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_posterior_is_the_class_balanced_vote_of_the_nearest_anchors(num_neighbors, temperature):
    bank, keys, labels = filled_bank(num_neighbors=num_neighbors, temperature=temperature)
    queries = random_features(2, 9, 5)
    for b in range(2):
        expected = reference.anchor_posterior(queries[b], keys, labels, 4, num_neighbors, temperature)
        torch.testing.assert_close(bank(queries)[b], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("strength", "eps"), [(0.5, 0.02), (1.0, 0.5), (0.0, 0.02)])
def test_probabilities_are_multiplied_by_a_power_of_the_posterior(strength, eps):
    bank, keys, labels = filled_bank(strength=strength, eps=eps)
    queries, probabilities = random_features(9, 5), random_logits(9, 4).softmax(1)
    posterior = reference.anchor_posterior(queries, keys, labels, 4)
    expected = reference.anchor_corrected(probabilities, posterior, strength, eps)
    torch.testing.assert_close(bank.correct(probabilities, queries), expected, rtol=1e-10, atol=1e-10)


def test_anchors_at_right_angles_decide_the_class():
    keys, labels = orthogonal_clusters(3, 4)
    bank = AnchorBank(3, 3, num_neighbors=4).double()
    bank.update(keys, labels)
    queries = torch.eye(3, dtype=torch.float64) * 7
    torch.testing.assert_close(bank(queries), torch.eye(3, dtype=torch.float64))


def test_a_class_of_many_anchors_does_not_outvote_a_class_of_few():
    bank = AnchorBank(2, 2, num_neighbors=100).double()
    bank.update(torch.ones(60, 2).double(), torch.tensor([0] * 50 + [1] * 10))
    torch.testing.assert_close(bank(torch.ones(1, 2).double()), torch.full((1, 2), 0.5, dtype=torch.float64))


def test_a_class_without_anchors_gets_no_vote_but_is_not_ruled_out():
    bank = AnchorBank(3, 2)
    bank.update(torch.ones(4, 2), torch.tensor([0, 2, 2, 2]))
    posterior = bank(torch.ones(5, 2))
    assert (posterior[:, 1] == 0).all()
    expected = torch.tensor([0.6, 0.1, 0.6])  # (r + eps), as strength is 1
    corrected = bank.correct(torch.full((5, 3), 1 / 3), torch.ones(5, 2))
    torch.testing.assert_close(corrected, (expected / expected.sum()).expand(5, 3))


def test_images_and_nodes_agree_when_height_is_not_width():
    bank, _, _ = filled_bank()
    maps, probabilities = random_features(2, 5, 3, 4), random_logits(2, 4, 3, 4).softmax(1)
    posterior, corrected = bank(maps), bank.correct(probabilities, maps)
    for h in range(3):
        for w in range(4):
            torch.testing.assert_close(posterior[:, :, h, w], bank(maps[:, :, h, w]))
            one = bank.correct(probabilities[:, :, h, w], maps[:, :, h, w])
            torch.testing.assert_close(corrected[:, :, h, w], one)


def held(bank):
    """The rows of each class, sorted, so that two banks can be compared whatever their order."""
    rows = [bank.features[c][bank.priority[c] > -torch.inf] for c in range(bank.num_classes)]
    return [sorted(map(tuple, r.tolist())) for r in rows]


def test_each_class_keeps_up_to_its_capacity_of_its_own_rows():
    features, labels = random_features(200, 3), random_labels(200, num_classes=3)
    labels[labels == 2] = 0
    labels[7:10] = 2
    bank = AnchorBank(4, 3, capacity_per_class=20).double()
    bank.update(features[:100], labels[:100])
    bank.update(features[100:], labels[100:])
    assert bank.counts.tolist() == [20, 20, 3, 0]
    offered = {tuple(row) for row in reference.unit(features).tolist()}
    for c, rows in enumerate(held(bank)):
        near = [min(((torch.tensor(o) - torch.tensor(r)).norm().item(), o) for o in offered) for r in rows]
        assert all(distance < 1e-12 for distance, _ in near)
        assert len({o for _, o in near}) == len(rows)
        own = {tuple(row) for row in reference.unit(features[labels == c]).tolist()}
        assert {o for _, o in near} <= own


def test_early_and_late_nodes_are_equally_likely_to_stay():
    early_kept = []
    for seed in range(300):
        bank = AnchorBank(1, 2, capacity_per_class=10, seed=seed)
        bank.update(torch.tensor([[1.0, 0.0]]).expand(30, 2), torch.zeros(30).long())
        bank.update(torch.tensor([[0.0, 1.0]]).expand(10, 2), torch.zeros(10).long())
        early_kept.append(bank.features[0, :, 0].sum().item())
    # hypergeometric: mean 7.5, standard deviation 1.2; the mean of 300 is within 4 of its own deviations
    assert abs(sum(early_kept) / 300 - 7.5) < 0.28
    assert len(set(early_kept)) > 3


def test_with_decay_late_nodes_are_likelier_to_stay():
    bank = AnchorBank(1, 2, capacity_per_class=500, decay=0.2)
    bank.update(torch.tensor([[1.0, 0.0]]).expand(500, 2), torch.zeros(500).long())
    bank.update(torch.tensor([[0.0, 1.0]]).expand(500, 2), torch.zeros(500).long())
    assert bank.features[0, :, 1].sum() > 350


def test_a_class_that_is_long_absent_keeps_its_anchors_under_decay():
    bank = AnchorBank(2, 2, capacity_per_class=4, decay=0.5)
    bank.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    for _ in range(300):
        bank.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert bank.counts.tolist() == [4, 1]


def test_a_resumed_bank_goes_on_as_if_never_interrupted():
    bank = AnchorBank(3, 2, capacity_per_class=5)
    bank.update(random_features(30, 2, dtype=torch.float32), random_labels(30, num_classes=3))
    resumed = AnchorBank(3, 2, capacity_per_class=5)
    resumed.load_state_dict(bank.state_dict())
    for one in (bank, resumed):
        one.update(random_features(30, 2, seed=8, dtype=torch.float32), random_labels(30, num_classes=3, seed=9))
    assert held(bank) == held(resumed)
    assert torch.equal(bank(torch.ones(2, 2)), resumed(torch.ones(2, 2)))


def test_ignored_and_nan_nodes_are_not_kept():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], [-1.0, 0.0]])
    bank = AnchorBank(2, 2)
    bank.update(features, torch.tensor([0, 255, 0, 1, 1]))
    assert held(bank) == [[(1.0, 0.0)], [(-1.0, 0.0)]]


@pytest.mark.parametrize("labels", [torch.full((2, 6), 255), torch.zeros(2, 0).long(), torch.zeros(0, 6).long()])
def test_a_batch_without_labels_changes_nothing(labels):
    bank = AnchorBank(2, 2)
    bank.update(torch.ones(2, 2), torch.tensor([0, 1]))
    before = held(bank)
    bank.update(torch.zeros(*labels.shape, 2), labels)
    assert held(bank) == before


def test_full_size_labels_meet_smaller_features_by_majority():
    maps = random_features(1, 2, 1, 2)
    bank = AnchorBank(3, 2).double()
    bank.update(maps, torch.tensor([[[2, 2, 0, 1], [2, 0, 1, 0]]]))
    assert bank.counts.tolist() == [0, 0, 1]  # the right half is a tie
    torch.testing.assert_close(bank.features[2, 0], maps[0, :, 0, 0] / maps[0, :, 0, 0].norm())


@given(st.floats(1e-3, 1e3))
def test_scaling_features_changes_nothing(scale):
    bank, keys, labels = filled_bank()
    scaled = AnchorBank(4, 5).double()
    scaled.update(keys * scale, labels)
    queries = random_features(6, 5)
    torch.testing.assert_close(scaled(queries * 3 * scale), bank(queries), rtol=1e-8, atol=1e-10)


def test_gradients_reach_the_probabilities_and_not_the_keys():
    bank, keys, labels = filled_bank()
    queries = random_features(6, 5).requires_grad_()
    probabilities = random_logits(6, 4).softmax(1).requires_grad_()
    cotangent = random_features(6, 4, seed=8)
    bank.correct(probabilities, queries).backward(cotangent)
    assert queries.grad is None
    posterior = reference.anchor_posterior(queries.detach(), keys, labels, 4)
    expected = torch.autograd.grad(reference.anchor_corrected(probabilities, posterior), probabilities, cotangent)[0]
    torch.testing.assert_close(probabilities.grad, expected, rtol=1e-10, atol=1e-10)


def test_an_empty_bank_says_so():
    with pytest.raises(RuntimeError, match="update"):
        AnchorBank(2, 3)(torch.ones(4, 3))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 5, 2, 3)])
def test_no_queries_give_no_answers(shape):
    bank, _, _ = filled_bank()
    expected = (*shape[:-1], 4) if len(shape) < 4 else (0, 4, 2, 3)
    assert bank(torch.zeros(shape, dtype=torch.float64)).shape == expected


def test_zero_queries_get_a_finite_answer():
    bank, _, _ = filled_bank()
    posterior = bank(torch.zeros(3, 5, dtype=torch.float64))
    torch.testing.assert_close(posterior.sum(1), torch.ones(3, dtype=torch.float64))
