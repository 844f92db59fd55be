"""A bank of anchors that holds all it was offered."""

from strategies import random_features, random_labels

from graphcorrect import AnchorBank


def filled_bank(num_anchors=40, num_classes=4, width=5, **options):
    """A float64 bank that holds all it was offered, with classes of unequal size, and what it was offered."""
    keys = random_features(num_anchors, width, seed=3)
    labels = random_labels(num_anchors, num_classes=num_classes, seed=4) ** 2 % num_classes
    bank = AnchorBank(num_classes, width, **options).double()
    bank.update(keys, labels)
    return bank, keys, labels
