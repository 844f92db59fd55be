"""The losses of a student: Dice is that of its definition, and each unlabeled pixel weighs what it should."""

import pytest
import torch
from torch.nn import functional as F
from trainer_data import tiny

losses = pytest.importorskip("segmentation.losses")
methods = pytest.importorskip("segmentation.method")
models = pytest.importorskip("segmentation.model")
teaching = pytest.importorskip("segmentation.teaching")


def slow_dice(logits, labels, weight, targets):
    """Pixel by pixel, class by class, in float64."""
    probabilities, total = logits.double().softmax(1), 0.0
    classes = logits.shape[1]
    for number in range(classes):
        overlap = size = 0.0
        for image in range(len(labels)):
            for row in range(labels.shape[1]):
                for column in range(labels.shape[2]):
                    label = int(labels[image, row, column])
                    if label == 255:
                        continue
                    p = float(probabilities[image, number, row, column])
                    t = float(label == number) if targets is None else float(targets[image, number, row, column])
                    w = 1.0 if weight is None else float(weight[image, row, column])
                    overlap, size = overlap + w * p * t, size + w * (p * p + t * t)
        total += 1 - (2 * overlap + 1e-5) / (size + 1e-5)
    return total / classes


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_dice_is_that_of_its_definition(weighted, soft):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(3, (2, 3, 5))  # the fourth class is absent
    labels[0, 0] = 255
    weight = torch.rand(2, 3, 5).round(decimals=1) if weighted else None
    targets = torch.rand(2, 4, 3, 5).softmax(1) if soft else None
    found = losses.dice(logits, labels, weight, targets=targets)
    assert float(found) == pytest.approx(slow_dice(logits, labels, weight, targets), abs=1e-6)


def test_dice_of_nothing_is_finite_and_of_the_truth_is_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    losses.dice(logits, torch.full((1, 4, 4), 255)).backward()
    assert torch.isfinite(logits.grad).all()
    labels = torch.arange(16).reshape(1, 4, 4) % 3
    sure = 50.0 * F.one_hot(labels, 3).movedim(-1, 1).float()
    assert float(losses.dice(sure, labels)) == pytest.approx(0, abs=1e-5)
    assert float(losses.dice(-sure, labels)) > 0.9


def stream(**given):
    torch.manual_seed(1)
    labels = torch.randint(3, (2, 4, 4))
    held = {"probabilities": torch.full((2, 3, 4, 4), 1 / 3), "kept": torch.rand(2, 4, 4) < 0.5} | given
    return teaching.Stream(torch.zeros(2, 3, 4, 4), labels, **held), torch.randn(2, 3, 4, 4)


def unlabeled_loss(name, one, logits, **settings):
    return teaching._unlabeled_loss(methods.parse(name), logits, one, tiny(**settings))


def test_only_sure_pixels_teach_and_sure_is_what_the_correction_says():
    unsure, logits = stream()
    assert float(unlabeled_loss("fixmatch", unsure, logits)) == 0
    assert float(unlabeled_loss("unimatch+graphs", unsure, logits)) == 0
    sure = unsure._replace(probabilities=F.one_hot(unsure.labels, 3).movedim(-1, 1).float())
    every = float(unlabeled_loss("self_training", unsure, logits))
    assert float(unlabeled_loss("fixmatch", sure, logits)) == pytest.approx(every)
    half = sure.probabilities.clone()
    half[0] = 1 / 3
    expected = F.cross_entropy(logits[1:], sure.labels[1:]) / 2  # an unsure pixel still counts in the mean
    torch.testing.assert_close(unlabeled_loss("fixmatch", sure._replace(probabilities=half), logits), expected)


def test_where_teacher_and_correction_disagree_a_pixel_weighs_less():
    one, logits = stream()
    hard = unlabeled_loss("self_training", one, logits)
    assert torch.equal(unlabeled_loss("self_training", one, logits, loss__labels="agree", loss__disagreed=1), hard)
    without = unlabeled_loss("self_training", one, logits, loss__labels="agree", loss__disagreed=0)
    each = F.cross_entropy(logits, one.labels, reduction="none")
    torch.testing.assert_close(without, (each * one.kept).mean())
    half = unlabeled_loss("self_training", one, logits, loss__labels="agree")
    torch.testing.assert_close(half, (hard + without) / 2)
    everywhere = one._replace(kept=torch.ones(2, 4, 4, dtype=torch.bool))  # nothing was corrected
    assert torch.equal(unlabeled_loss("self_training", everywhere, logits, loss__labels="agree"), hard)


def test_dice_may_stand_alone_for_unlabeled_pixels():
    one, logits = stream()
    found = unlabeled_loss("self_training", one, logits, loss__dice=2, loss__unlabeled_cross_entropy=0)
    torch.testing.assert_close(found, 2 * losses.dice(logits, one.labels))
    both = unlabeled_loss("self_training", one, logits, loss__dice=2)
    torch.testing.assert_close(both, found + losses.cross_entropy(logits, one.labels))


def test_the_cross_entropy_of_unlabeled_pixels_weighs_what_it_is_told_to_without_dice_too():
    one, logits = stream()
    found = unlabeled_loss("self_training", one, logits, loss__dice=0, loss__unlabeled_cross_entropy=0.5)
    torch.testing.assert_close(found, losses.cross_entropy(logits, one.labels) / 2)


def test_the_confidence_of_a_teacher_is_that_of_real_pixels():
    logits = torch.zeros(1, 2, 4, 4)
    logits[..., 2:] = torch.tensor([20.0, 0.0])[:, None, None]  # of what a view was padded by the teacher is sure
    inside = (torch.arange(4) < 2).expand(1, 4, 4)
    answer = models.NetworkOutput(logits, logits, None)
    found = teaching.pseudo_label(
        methods.parse("fixmatch"), lambda images: (answer, None), torch.zeros(1, 3, 4, 4), inside, None
    )
    assert float(found.confidence) == 0.5
    assert float(found.changed) == 0
