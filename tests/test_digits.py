"""An untrained refiner on scikit-learn's digits: raw pixels as features, 40 % of the labels replaced at random."""

import numpy as np
import pytest
import torch

from graphcorrect import DualGraphRefiner, metrics

datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits():
    """Pixels (1797, 64) in [0, 1], true labels, and labels of which 40 % name another class."""
    pixels, labels = datasets.load_digits(return_X_y=True)
    pixels, labels = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    draw = torch.Generator().manual_seed(0)
    other = (labels + torch.randint(1, 10, labels.shape, generator=draw)) % 10
    return pixels, labels, torch.where(torch.rand(labels.shape, generator=draw) < 0.4, other, labels)


def corrected(pixels, noisy):
    smoothed = torch.full((len(noisy), 10), 0.01).scatter(1, noisy[:, None], 0.91)
    return DualGraphRefiner(num_classes=10, feature_dim=64)(pixels, smoothed.log()).pseudo_labels


def test_most_wrong_labels_are_fixed_and_few_right_ones_broken(digits):
    pixels, labels, noisy = digits
    after = corrected(pixels, noisy)
    counts = metrics.correction_counts(noisy, after, labels)
    assert (noisy == labels).float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert (after == labels).float().mean() > 0.95
    assert counts.fixed > 20 * counts.broken
    assert counts.fixed > 550


def test_more_labels_are_right_than_after_label_spreading(digits):
    semi_supervised = pytest.importorskip("sklearn.semi_supervised")
    pixels, labels, noisy = digits
    theirs = 0.0
    for alpha in (0.2, 0.8, 0.99):  # scikit-learn's default, and more trust in the neighbors
        peer = semi_supervised.LabelSpreading(kernel="knn", n_neighbors=20, alpha=alpha, max_iter=2000)
        theirs = max(theirs, np.mean(peer.fit(pixels.numpy(), noisy.numpy()).transduction_ == labels.numpy()))
    assert theirs > 0.8
    assert (corrected(pixels, noisy) == labels).float().mean() > theirs + 0.02
