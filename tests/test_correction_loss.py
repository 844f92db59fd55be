"""LabelCorrectionLoss is Eq. 17: both losses over all rounds."""

import pytest
import reference
import torch
from strategies import random_features, random_labels, random_logits

from graphcorrect import DualGraphRefiner, LabelCorrectionLoss, PrototypeBank, slg_loss

PROTOTYPES = random_features(2, 3, 4, seed=77)
KNOWN = torch.tensor([[True, True, False], [True, True, True]])


def student(*, num_nodes=12):
    features, logits = (
        random_features(2, num_nodes, 4).requires_grad_(),
        random_logits(2, num_nodes, 3).requires_grad_(),
    )
    out = DualGraphRefiner(3, 4, num_neighbors=4, sigma=0.8).double()(features, logits)
    return features, logits, out, random_labels(2, num_nodes, num_classes=3, ignored=0.2)


@pytest.mark.parametrize("weights", [{}, {"slg_weight": 0.0}, {"clg_weight": 0.0}, {"slg_weight": 2.0, "balance": 0.9}])
@pytest.mark.parametrize(("prototypes", "known"), [(None, None), (PROTOTYPES, None), (PROTOTYPES, KNOWN)])
def test_the_total_is_equation_17(weights, prototypes, known):
    _, _, out, labels = student()
    loss = LabelCorrectionLoss(**weights)(out, labels, prototypes=prototypes, prototype_mask=known)
    expected = reference.eq17_total(out.probabilities, out.features, labels, prototypes, known, **weights)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-10)


def test_the_parts_are_sums_over_rounds_before_weighting():
    _, _, out, labels = student()
    loss = LabelCorrectionLoss(slg_weight=0.3, clg_weight=0.7)(out, labels, prototypes=PROTOTYPES)
    slg = reference.eq17_total(out.probabilities, out.features, labels, PROTOTYPES, slg_weight=1.0, clg_weight=0.0)
    clg = reference.eq17_total(out.probabilities, out.features, labels, PROTOTYPES, slg_weight=0.0, clg_weight=1.0)
    torch.testing.assert_close(loss.slg, slg, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.clg, clg, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.total, 0.3 * slg + 0.7 * clg, rtol=1e-10, atol=1e-10)


def test_its_gradient_through_the_refiner_is_that_of_the_equations():
    features, logits, out, labels = student()
    mine = torch.autograd.grad(
        LabelCorrectionLoss()(out, labels, prototypes=PROTOTYPES, prototype_mask=KNOWN).total, (features, logits)
    )
    p, x = reference.algorithm1(features, logits, num_neighbors=4, sigma=0.8)
    exact = torch.autograd.grad(reference.eq17_total(p, x, labels, PROTOTYPES, KNOWN), (features, logits))
    for one, other in zip(mine, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
        assert one.abs().max() > 1e-4


def test_a_bank_of_prototypes_fits_as_it_is():
    _, _, out, labels = student()
    bank = PrototypeBank(3, 4).double()
    for k in range(2):
        bank.update(out.features[k + 1], labels, round=k)
    means = [reference.eq13_class_means(x.detach().reshape(-1, 4), labels.reshape(-1), 3) for x in out.features[1:]]
    loss = LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes, prototype_mask=bank.is_initialized)
    expected = reference.eq17_total(
        out.probabilities, out.features, labels, torch.stack([torch.stack(m) for m in means])
    )
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-10)


def test_full_size_labels_reach_pixels_by_nearest_and_grid_nodes_by_majority():
    features, logits = random_features(2, 4, 8, 12), random_logits(2, 3, 8, 12)
    out = DualGraphRefiner(3, 4, num_neighbors=4, max_nodes=24).double()(features, logits)
    labels = random_labels(2, 4, 6, num_classes=3, ignored=0.2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    labels[:, ::2, ::2] = 0  # one of the four pixels of each cell
    cells = labels[:, 1::2, 1::2]
    loss = LabelCorrectionLoss()(out, labels)
    p = [q.flatten(2).mT for q in out.probabilities]
    x = [y.flatten(2).mT for y in out.features]
    clg = reference.eq17_total(p, x, labels.flatten(1), slg_weight=0.0)
    slg = reference.eq17_total([], x, cells.flatten(1), slg_weight=1.0)
    torch.testing.assert_close(loss.clg, clg, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.slg, slg, rtol=1e-10, atol=1e-10)


def test_every_node_ignored_costs_nothing_and_trains_nothing():
    features, logits, out, labels = student()
    loss = LabelCorrectionLoss()(out, torch.full_like(labels, 255), prototypes=PROTOTYPES, prototype_mask=KNOWN)
    assert loss.total.item() == 0.0
    loss.total.backward()
    assert (features.grad == 0).all()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("labels", [torch.full((2, 12), 3), torch.full((2, 12), -1)])
def test_labels_outside_the_classes_are_named(labels):
    _, _, out, _ = student()
    with pytest.raises(ValueError, match=rf"labels`.*values {labels[0, 0]}$"):
        LabelCorrectionLoss()(out, labels)


def test_too_few_rounds_of_prototypes_are_refused():
    _, _, out, labels = student()
    with pytest.raises(ValueError, match=r"`prototypes`.*2 rounds.*\(1, 3, 4\)"):
        LabelCorrectionLoss()(out, labels, prototypes=PROTOTYPES[:1])


def test_prototypes_of_a_bank_that_was_never_updated_are_named():
    out = DualGraphRefiner(3, 4, num_neighbors=5)(torch.randn(2, 30, 4), torch.randn(2, 30, 3))
    bank, labels = PrototypeBank(3, 4), torch.randint(3, (2, 30))
    with pytest.warns(UserWarning, match="`prototypes` with a row that is not zero, got none.*bank.is_initialized"):
        LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes)
    with pytest.warns(UserWarning, match="`prototypes` with a row that is not zero"):
        slg_loss(out.features[1], labels, bank.prototypes[0])
    LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes, prototype_mask=bank.is_initialized)
    LabelCorrectionLoss(validate_args=False)(out, labels, prototypes=bank.prototypes)
    bank.update(out.features[1], labels, round=0)
    LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes)


BANK = torch.randn(2, 4, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prototypes": torch.randn(2, 9, 8)}, "`prototypes` with 4 classes"),
        ({"prototypes": torch.randn(2, 3, 8)}, "`prototypes` with 4 classes"),
        ({"prototypes": torch.randn(2, 4, 7)}, "`prototypes` with 8 entries"),
        ({"prototypes": torch.ones(2, 4, 8).long()}, "`prototypes` to be floating point"),
        ({"prototypes": BANK.to("meta")}, "`prototypes` on the device of `student_out`"),
        ({"prototypes": BANK, "prototype_mask": torch.ones(1, 4).bool()}, "`prototype_mask` of shape"),
        ({"prototypes": BANK, "prototype_mask": torch.ones(4).bool()}, "`prototype_mask` of shape"),
        ({"prototypes": BANK, "prototype_mask": torch.ones(2, 4)}, "`prototype_mask` to be torch.bool"),
        ({"prototype_mask": torch.ones(2, 4).bool()}, "`prototypes` beside `prototype_mask`"),
    ],
)
def test_prototypes_that_do_not_fit_are_named(given, message):
    out = DualGraphRefiner(4, 8, num_neighbors=5)(torch.randn(2, 30, 8), torch.randn(2, 30, 4))
    with pytest.raises((ValueError, TypeError), match=f"expected {message}"):
        LabelCorrectionLoss()(out, torch.randint(3, (2, 30)), **given)


def test_labels_that_do_not_fit_are_called_what_they_are_given_as():
    out = DualGraphRefiner(4, 8, num_neighbors=5)(torch.randn(2, 30, 8), torch.randn(2, 30, 4))
    with pytest.raises(ValueError, match=r"expected `pseudo_labels` in \[0, 4\)"):
        LabelCorrectionLoss()(out, torch.full((2, 30), 9))
