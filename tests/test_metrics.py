"""Metrics against a count by hand, scikit-learn and torchmetrics."""

import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import labels_strategy, random_labels

from graphcorrect import metrics


@given(st.data())
def test_mean_iou_is_the_fields(data):
    labels = data.draw(labels_strategy(12, 4))
    predictions = data.draw(labels_strategy(12, 4)).remainder(4)
    confusion = metrics.confusion_matrix(predictions, labels, 4)
    wanted = reference.iou_per_class(predictions, labels, 4)
    for mine, one in zip(metrics.per_class_iou(confusion).tolist(), wanted, strict=True):
        assert math.isnan(mine) if one is None else mine == pytest.approx(one, abs=1e-12)
    if any(one is not None for one in wanted):
        assert metrics.mean_iou(confusion) == pytest.approx(reference.mean_iou(predictions, labels, 4), abs=1e-12)
    else:
        assert math.isnan(metrics.mean_iou(confusion))
        assert math.isnan(metrics.accuracy(confusion))


def test_worked_by_hand():
    labels = torch.tensor([[0, 0, 1], [1, 255, 2]])
    predictions = torch.tensor([[0, 1, 1], [1, 0, 0]])
    confusion = metrics.confusion_matrix(predictions, labels, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]  # rows: truth
    assert confusion.dtype == torch.int64
    assert metrics.per_class_iou(confusion)[:3].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert metrics.mean_iou(confusion) == pytest.approx(1 / 3)
    assert metrics.accuracy(confusion) == pytest.approx(3 / 5)


def test_dice_of_volumes_is_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = random_labels(600, num_classes=5, ignored=0.2), random_labels(600, num_classes=5, seed=8)
    labels[:200][labels[:200] == 4], predictions[:200][predictions[:200] == 4] = 3, 3  # the first volume lacks a class
    volumes = list(zip(predictions.split(200), labels.split(200), strict=True))
    confusions = torch.stack([metrics.confusion_matrix(one, truth, 5) for one, truth in volumes])
    found = metrics.per_class_dice(confusions)
    assert found.shape == (3, 5)
    assert found.isnan().tolist() == [[False] * 4 + [True], [False] * 5, [False] * 5]
    for (one, truth), dice in zip(volumes, found, strict=True):
        counted = truth != 255
        expected = sklearn_metrics.f1_score(
            truth[counted], one[counted], average=None, labels=range(5), zero_division=0
        )
        assert dice.nan_to_num().tolist() == pytest.approx(expected.tolist())
    iou = metrics.per_class_iou(confusions.sum(0))
    assert torch.allclose(metrics.per_class_dice(confusions.sum(0)), 2 * iou / (1 + iou))


@pytest.mark.parametrize(
    "confusion", [torch.zeros(3), torch.zeros(2, 3, 4), [[1]], torch.zeros(2, 2, dtype=torch.bool)]
)
def test_dice_of_what_are_no_counts_is_refused(confusion):
    with pytest.raises((TypeError, ValueError), match="`confusion`"):
        metrics.per_class_dice(confusion)


def test_confusion_is_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = random_labels(500, num_classes=5, ignored=0.2), random_labels(500, num_classes=5, seed=8)
    counted = labels != 255
    confusion = metrics.confusion_matrix(predictions, labels, 5)
    expected = sklearn_metrics.confusion_matrix(labels[counted], predictions[counted], labels=range(5))
    assert confusion.tolist() == expected.tolist()
    jaccard = sklearn_metrics.jaccard_score(labels[counted], predictions[counted], average=None, labels=range(5))
    assert metrics.per_class_iou(confusion).tolist() == pytest.approx(jaccard.tolist())


def test_mean_iou_is_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    labels, predictions = random_labels(500, num_classes=5, ignored=0.2), random_labels(500, num_classes=4, seed=8)
    expected = classification.multiclass_jaccard_index(predictions, labels, 5, ignore_index=255)
    assert metrics.mean_iou(metrics.confusion_matrix(predictions, labels, 5)) == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_confusions_of_batches_add_up():
    labels, predictions = (
        random_labels(2, 3, 4, num_classes=3, ignored=0.2),
        random_labels(2, 3, 4, num_classes=3, seed=8),
    )
    parts = sum(metrics.confusion_matrix(p, y, 3) for p, y in zip(predictions, labels, strict=True))
    assert torch.equal(parts, metrics.confusion_matrix(predictions, labels, 3))


def test_a_correction_is_counted_by_what_it_fixed_and_broke():
    labels = torch.tensor([0, 0, 0, 1, 1, 255, 2])
    before = torch.tensor([0, 1, 2, 1, 1, 0, 0])
    after = torch.tensor([0, 0, 1, 0, 1, 1, 0])
    counts = metrics.correction_counts(before, after, labels)
    assert counts._asdict() == {"fixed": 1, "broken": 1, "changed": 3, "total": 6}


def test_an_empty_batch_counts_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert metrics.confusion_matrix(nothing, nothing, 3).sum() == 0
    assert metrics.correction_counts(nothing, nothing, nothing) == (0, 0, 0, 0)


def test_labels_of_any_integer_type_are_counted():
    labels, predictions = random_labels(50, num_classes=3, ignored=0.2), random_labels(50, num_classes=3, seed=8)
    small = metrics.confusion_matrix(predictions.to(torch.uint8), labels.to(torch.uint8), 3)
    assert torch.equal(small, metrics.confusion_matrix(predictions, labels, 3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_class_that_the_ignored_label_wraps_to_is_counted(dtype):
    labels, predictions = torch.tensor([156, 156, 3, 2]), torch.tensor([156, 2, 3, 156])
    confusion = metrics.confusion_matrix(predictions.to(dtype), labels.to(dtype), 300, ignore_index=-100)
    assert torch.equal(confusion, metrics.confusion_matrix(predictions, labels, 300, ignore_index=-1))
    assert confusion.sum() == 4
    counts = metrics.correction_counts(predictions.to(dtype), labels.to(dtype), labels.to(dtype), ignore_index=-100)
    assert counts == (2, 0, 2, 4)


def test_a_truth_of_no_class_is_refused_rather_than_counted():
    labels = torch.tensor([0, 1, -1, 255])
    with pytest.raises(ValueError, match=r"`labels`.*got the values -1"):
        metrics.correction_counts(labels, labels, labels)
    assert metrics.correction_counts(labels, labels, labels, ignore_index=-1).total == 3
    with pytest.raises(TypeError, match="`labels` to be a torch.Tensor, got list"):
        metrics.correction_counts(labels, labels, labels.tolist())
