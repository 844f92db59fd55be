"""AnchorBank: what the nearest of its labeled nodes say about a query."""

import copy
import pickle

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bank import filled_bank
from strategies import orthogonal_clusters, random_features, random_labels, random_logits

from graphcorrect import AnchorBank, DualGraphRefiner, calibrate
from graphcorrect.banks import anchors
from graphcorrect.banks._lookup import PackedAnchors


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


CHANGES = {
    "update": lambda bank: bank.update(torch.tensor([[1.0, 2.0]]).double(), torch.tensor([1])),
    "load_state_dict": lambda bank: bank.load_state_dict(other_state()),
    "load_state_dict, assigned": lambda bank: bank.load_state_dict(other_state(), assign=True),
    "to": lambda bank: bank.float().double(),
    "a write": lambda bank: bank.features.neg_(),
    "another width": lambda bank: setattr(bank, "key_dim", 1),
    "no look-up between": lambda bank: None,
}


def other_state():
    other = AnchorBank(2, 2, capacity_per_class=9).double()
    other.update(random_features(40, 2, seed=5), random_labels(40, num_classes=2, seed=6))
    return other.state_dict()


@pytest.mark.parametrize("num_anchors", [12, 200])
@pytest.mark.parametrize("change", CHANGES)
def test_a_look_up_sees_every_change(change, num_anchors):
    queries = random_features(6, 2, seed=9)
    bank = AnchorBank(2, 2, capacity_per_class=9, num_neighbors=3).double()
    bank.update(random_features(num_anchors, 2), random_labels(num_anchors, num_classes=2))
    before = bank(queries)
    twin = copy.deepcopy(bank)
    CHANGES[change](bank)
    fresh = AnchorBank(2, 2, capacity_per_class=9, num_neighbors=3, key_dim=bank.key_dim).double()
    fresh.load_state_dict(copy.deepcopy(bank.state_dict()))
    torch.testing.assert_close(bank(queries), fresh(queries), rtol=0, atol=0)
    torch.testing.assert_close(twin(queries), before, rtol=0, atol=0)
    if change in ("load_state_dict", "a write"):
        assert not torch.equal(bank(queries), before)


def test_anchors_are_packed_once_between_updates():
    bank, keys, labels = filled_bank()
    bank(keys)
    packed = bank._packed()
    bank.correct(random_logits(40, 4).softmax(1), keys)
    assert bank._packed() is packed
    assert "_cache" in bank.__getstate__()
    assert bank.__getstate__()["_cache"] is None
    with torch.inference_mode():
        bank.update(keys, labels)
        bank(keys)
        inside = AnchorBank(4, 5).double()
        inside.update(keys, labels)
        first = inside(keys)
        inside.update(-keys, labels)
        assert not torch.equal(inside(keys), first)
    assert bank._packed() is not packed
    full = AnchorBank(2, 2, capacity_per_class=1)
    full.update(torch.eye(2), torch.arange(2))
    assert full._packed().keys.data_ptr() == full.features.data_ptr()  # no copy


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_labels_of_any_dtype_make_the_same_anchors(dtype):
    keys, labels = random_features(6, 3), torch.tensor([0, 156, 156, 2, 0, 156])
    bank, expected = (AnchorBank(300, 3, ignore_index=-100, capacity_per_class=4).double() for _ in range(2))
    bank.update(keys, labels.to(dtype))
    expected.update(keys, labels)
    assert torch.equal(bank.features, expected.features)
    assert bank.counts[[0, 2, 156]].tolist() == [2, 1, 3]


def test_a_bank_outlives_the_inference_mode_that_it_was_made_in():
    keys, labels = random_features(40, 5, seed=3), random_labels(40, num_classes=4, seed=4)
    expected = AnchorBank(4, 5).double()
    with torch.inference_mode():
        bank = AnchorBank(4, 5).double()
        for each in (bank, expected):
            each.update(keys, labels)
        packed = bank._packed()
        assert torch.equal(bank(keys), expected(keys))
        assert bank._packed() is packed  # nothing was written in between
        probabilities = random_logits(40, 4).softmax(1)
    assert bank._packed() is packed
    probabilities = probabilities.clone().requires_grad_()
    bank.correct(probabilities, keys).square().sum().backward()
    assert probabilities.grad.isfinite().all()
    for each in (bank, expected):
        each.update(-keys, labels)
    assert torch.equal(bank(keys), expected(keys))
    bank.load_state_dict(filled_bank()[0].state_dict() | {"features": torch.zeros_like(bank.features)})
    assert bank.features.count_nonzero() == 0


def test_a_bank_is_calibrated_in_inference_mode_as_outside(monkeypatch):
    keys, labels = random_features(4, 10, 5, seed=3), random_labels(4, 10, num_classes=4, seed=4)
    said = random_logits(4, 10, 4).softmax(-1)
    bank = AnchorBank(4, 5).double()
    bank.update(keys, labels)
    expected = calibrate(bank, keys, labels, said, folds=2)
    packed = []
    monkeypatch.setattr(anchors, "PackedAnchors", lambda *of_bank: packed.append(PackedAnchors(*of_bank)) or packed[-1])
    with torch.inference_mode():
        assert calibrate(bank, keys, labels, said, folds=2) == expected
    assert len(packed) == 2  # once for each fold, of two images


def test_a_calibration_counts_the_class_255_where_it_is_not_the_ignored_label():
    bank = AnchorBank(300, 2, ignore_index=-100)
    keys, labels = torch.eye(2), torch.tensor([255, 3])
    bank.update(keys, labels)
    said = torch.full((2, 300), 0.5 / 299).index_fill(1, torch.tensor([7]), 0.5)
    said[1] = said[1].roll(-4)  # right
    found = calibrate(bank, [keys], [labels], [said], strengths=[9.0], eps=[1e-3])
    assert (found.before, found.after) == (pytest.approx(1 / 3), 1.0)


def test_the_state_of_earlier_versions_can_be_loaded():
    features, priority = torch.zeros(2, 3, 2), torch.full((2, 3), -torch.inf)
    features[0, 0], priority[0, 0] = torch.tensor([0.6, 0.8]), -0.1
    bank = AnchorBank(2, 2, capacity_per_class=3)
    state = {"features": features, "priority": priority, "num_updates": torch.tensor(7)}
    assert set(bank.state_dict()) == {*state, "num_seen"}
    bank.load_state_dict(state)
    assert bank.num_seen.tolist() == [1, 0]
    torch.testing.assert_close(bank(torch.ones(1, 2)), torch.tensor([[1.0, 0.0]]))


def test_messages_name_the_argument_of_the_caller():
    bank = AnchorBank(3, 5)
    bank.update(torch.ones(4, 5), torch.zeros(4).long())
    features, logits = torch.ones(1, 6, 4), torch.zeros(1, 6, 3)
    refiner = DualGraphRefiner(3, 4, num_neighbors=2)
    with pytest.raises(ValueError, match="`anchor_features` with 5 entries"):
        refiner(features, logits, anchors=bank, anchor_features=torch.ones(1, 6, 7))
    with pytest.raises(ValueError, match="`features` with 5 entries"):
        refiner(features, logits, anchors=bank)


def test_a_narrow_key_keeps_what_the_rows_span():
    basis = torch.linalg.qr(random_features(8, 3)).Q.T  # three directions of eight
    keys, labels = random_features(60, 3, seed=1) @ basis, random_labels(60, num_classes=4)
    queries = random_features(9, 3, seed=2) @ basis
    whole, narrow = AnchorBank(4, 8).double(), AnchorBank(4, 8, key_dim=3).double()
    for bank in (whole, narrow):
        bank.update(keys, labels)
    torch.testing.assert_close(narrow(queries), whole(queries), rtol=1e-8, atol=1e-8)
    assert narrow._packed().keys.shape == (60, 3)


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


def test_a_row_of_zeros_stays_one():
    """Of a cell that a mask leaves empty; NaN would reach its neighbors when the map is resized."""
    anchors = AnchorBank(num_classes=3, feature_dim=4)
    anchors.update(torch.randn(30, 4), torch.randint(3, (30,)))
    probabilities = torch.randn(5, 3).softmax(-1)
    probabilities[2] = 0
    corrected = anchors.correct(probabilities, torch.randn(5, 4))
    torch.testing.assert_close(corrected.sum(-1), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))


def test_a_query_that_is_like_no_anchor_gets_no_answer():
    """Its cosine with all is 0, and those that a search returns first say nothing of it."""
    bank, _, _ = filled_bank()
    bank.num_neighbors = 3
    posterior = bank(torch.zeros(3, 5, dtype=torch.float64))
    torch.testing.assert_close(posterior, torch.full((3, 4), 0.25, dtype=torch.float64))


def test_logits_in_the_place_of_probabilities_are_refused():
    (bank, *_), logits = filled_bank(), random_logits(5, 4)
    with pytest.raises(ValueError, match="expected `probabilities`, at least 0 .* of logits take the softmax"):
        bank.correct(logits, random_features(5, 5))
    with pytest.raises(ValueError, match="expected `probabilities`, at least 0 .* of logits take the softmax"):
        calibrate(bank, [random_features(5, 5)], [random_labels(5, num_classes=4)], [logits])


@pytest.mark.parametrize("kind", [copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))])
def test_a_copy_outlives_the_inference_mode_that_it_was_made_in(kind):
    with torch.inference_mode():
        copied = kind(filled_bank()[0])
    copied.update(random_features(5, 5), random_labels(5, num_classes=4))
    assert copied.num_updates == 2
