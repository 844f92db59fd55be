"""A small refiner, and nodes of which about half are confident."""

import torch
from strategies import random_features, random_logits

from graphcorrect import DualGraphRefiner

ORDERS = ["class_first", "semantic_first", "simultaneous"]


def build(num_neighbors=4, sigma=0.8, **options):
    """A small refiner for C = 3, D = 4; sigma low enough that both sides of Eq. 10 occur."""
    return DualGraphRefiner(3, 4, num_neighbors=num_neighbors, sigma=sigma, **options)


def nodes(batch=2, num_nodes=14, seed=0, dtype=torch.float64):
    """Features (B, N, 4) and logits (B, N, 3) of which about half are confident by Eq. 9."""
    features = random_features(batch, num_nodes, 4, seed=seed, dtype=dtype)
    return features, random_logits(batch, num_nodes, 3, seed=seed + 1, scale=1.2, dtype=dtype)
