"""PrototypeBank is Eqs. 13 and 14: a slow-moving mean feature for each class and round."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import labels_strategy, random_features, random_labels

from graphcorrect.banks.prototypes import PrototypeBank


def agrees(bank, expected, round=0):
    for c, prototype in enumerate(expected):
        assert bool(bank.is_initialized[round, c]) == (prototype is not None)
        if prototype is not None:
            torch.testing.assert_close(bank.prototypes[round, c].double(), prototype, rtol=1e-10, atol=1e-10)


@given(st.data())
def test_updates_are_equations_13_and_14(data):
    bank = PrototypeBank(4, 3, momentum=0.9).double()
    expected = [None] * 4
    for step in range(4):
        features = random_features(10, 3, seed=step)
        labels = data.draw(labels_strategy(10, 4))
        bank.update(features, labels)
        means = reference.eq13_class_means(features, labels, 4)
        expected = reference.eq14_moving_average(expected, means, 0.9)
        agrees(bank, expected)


def test_by_default_the_old_value_keeps_99_percent():
    bank = PrototypeBank(2, 3)
    bank.update(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
    bank.update(torch.full((4, 3), 2.0), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(bank.prototypes[0, 0], torch.full((3,), 1.01))
    assert bank.is_initialized.tolist() == [[True, False], [False, False]]


def test_a_prototype_belongs_to_its_class_id_not_to_its_place_among_present_classes():
    bank = PrototypeBank(5, 2)
    bank.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [7.0, 7.0]]), torch.tensor([3, 1, 255]))
    expected = torch.zeros(5, 2)
    expected[3, 0] = expected[1, 1] = 1.0
    torch.testing.assert_close(bank.prototypes[0], expected)
    assert bank.is_initialized[0].tolist() == [False, True, False, True, False]


def test_each_round_has_its_own_prototypes():
    bank = PrototypeBank(2, 3, num_rounds=3)
    bank.update(torch.ones(2, 3), torch.tensor([0, 1]), round=1)
    assert bank.is_initialized.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    torch.testing.assert_close(bank.prototypes, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 2, 3))
    prototypes, known = bank(1)
    assert torch.equal(prototypes, bank.prototypes[1])
    assert torch.equal(known, bank.is_initialized[1])


def test_features_are_averaged_as_given_not_normalized():
    bank = PrototypeBank(1, 2)
    bank.update(torch.tensor([[3.0, 4.0], [0.0, 20.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(bank.prototypes[0, 0], torch.tensor([1.5, 12.0]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_labels_of_any_dtype_move_the_same_prototypes(dtype):
    features, labels = random_features(6, 3), torch.tensor([0, 156, 156, 2, 0, 156])
    bank, expected = (PrototypeBank(300, 3, ignore_index=-100).double() for _ in range(2))
    bank.update(features, labels.to(dtype))
    expected.update(features, labels)
    assert torch.equal(bank.prototypes, expected.prototypes)
    assert bank.is_initialized[0].nonzero().flatten().tolist() == [0, 2, 156]


def test_a_bank_outlives_the_inference_mode_that_it_was_made_in():
    features, labels = random_features(6, 3), torch.tensor([0, 1, 1, 2, 0, 255])
    expected = PrototypeBank(3, 3).double()
    expected.update(features, labels)
    with torch.inference_mode():
        bank = PrototypeBank(3, 3).double()
        bank.load_state_dict(expected.state_dict())
        bank.update(-features, labels)
    expected.update(-features, labels)
    for each in (bank, expected):
        each.update(features, labels)
    assert torch.equal(bank.prototypes, expected.prototypes)
    bank.load_state_dict(PrototypeBank(3, 3).state_dict())
    assert not bank.is_initialized.any()


def test_images_meet_labels_of_the_same_pixel_when_height_is_not_width():
    maps, labels = random_features(2, 3, 4, 5), random_labels(2, 4, 5, num_classes=3, ignored=0.2)
    bank = PrototypeBank(3, 3).double()
    bank.update(maps, labels)
    nodes = torch.stack([maps[b, :, h, w] for b in range(2) for h in range(4) for w in range(5)])
    agrees(bank, reference.eq13_class_means(nodes, labels.flatten(), 3))


def test_full_size_labels_meet_smaller_features_by_majority():
    maps, small = random_features(1, 3, 2, 3), torch.tensor([[[0, 1, 1], [2, 255, 0]]])
    labels = small.repeat_interleave(2, 1).repeat_interleave(2, 2).clone()
    labels[0, 0, 0] = 2  # one of four pixels
    labels[0, 0, 2:4] = 0  # two of four pixels: a tie, which is ignored
    bank = PrototypeBank(3, 3).double()
    bank.update(maps, labels)
    voted = torch.tensor([0, 255, 1, 2, 255, 0])
    agrees(bank, reference.eq13_class_means(maps[0].reshape(3, 6).T, voted, 3))


def test_prototypes_are_in_the_state_dict_and_come_back():
    bank = PrototypeBank(3, 2)
    bank.update(torch.ones(2, 2), torch.tensor([0, 2]))
    resumed = PrototypeBank(3, 2)
    resumed.load_state_dict(bank.state_dict())
    assert torch.equal(resumed.prototypes, bank.prototypes)
    assert torch.equal(resumed.is_initialized, bank.is_initialized)
    for one in (bank, resumed):
        one.update(torch.zeros(1, 2), torch.tensor([0]))
        torch.testing.assert_close(one.prototypes[0, 0], torch.full((2,), 0.99))


@pytest.mark.parametrize("labels", [torch.full((2, 6), 255), torch.zeros(2, 0).long(), torch.zeros(0, 6).long()])
def test_a_batch_without_labels_changes_nothing(labels):
    bank = PrototypeBank(3, 2)
    bank.update(torch.ones(2, 2), torch.tensor([0, 2]))
    before = bank.prototypes.clone()
    bank.update(torch.full((*labels.shape, 2), 5.0), labels)
    assert torch.equal(bank.prototypes, before)
    assert bank.is_initialized[0].tolist() == [True, False, True]


def test_a_nan_does_not_enter_a_bank_that_outlives_its_image():
    bank = PrototypeBank(2, 2)
    bank.update(torch.tensor([[1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0]]), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(bank.prototypes[0], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert bank.is_initialized[0].tolist() == [True, False]


def test_half_precision_features_are_summed_in_float32():
    features = torch.full((5000, 1), 30.0, dtype=torch.float16)  # their sum is beyond float16
    bank = PrototypeBank(1, 1)
    bank.update(features, torch.zeros(5000, dtype=torch.int64))
    assert bank.prototypes.dtype == torch.float32
    assert bank.prototypes[0, 0].item() == pytest.approx(30.0)


def test_updating_carries_no_gradient():
    bank = PrototypeBank(1, 2)
    bank.update(torch.ones(3, 2, requires_grad=True) * 2, torch.zeros(3, dtype=torch.int64))
    assert not bank.prototypes.requires_grad


@given(st.integers(0, 1000))
def test_permuting_nodes_changes_nothing(seed):
    features, labels = random_features(12, 3, seed=seed), random_labels(12, num_classes=3, seed=seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    one, other = PrototypeBank(3, 3).double(), PrototypeBank(3, 3).double()
    one.update(features, labels)
    other.update(features[order], labels[order])
    torch.testing.assert_close(one.prototypes, other.prototypes)


def test_finite_rows_that_add_up_to_inf_leave_the_bank_as_it_was():
    bank = PrototypeBank(2, 2, momentum=0.5)
    bank.update(torch.full((2, 2), 3e38), torch.tensor([0, 0]))
    assert not bank.is_initialized.any()
    bank.update(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([0, 1]))
    bank.update(torch.full((2, 2), 3e38), torch.tensor([1, 1]))
    assert bank.prototypes[0].tolist() == [[1.0, 1.0], [2.0, 2.0]]
