"""What the layers replace, in plain torch: dense matrices, no cubic product, one `topk` a row, no loop over classes.

Nothing here is slower than it has to be: diagonal matrices are scalings, and what a formula shares is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_NEIGHBORS, SIGMA, ALPHA = 20, 0.95, 0.2


def affinity(features: Tensor) -> Tensor:
    """Eqs. (4), (5): the matrix (B, N, N) of the semantic-level graph."""
    rows = F.normalize(features, dim=-1)
    scores = rows @ rows.mT
    scores.diagonal(dim1=1, dim2=2).fill_(-1)
    weight, index = scores.topk(NUM_NEIGHBORS)
    matrix = torch.zeros_like(scores).scatter_(2, index, weight.clamp_min(0))
    matrix = matrix + matrix.mT
    scale = matrix.sum(-1).clamp_min(1e-9).rsqrt()
    return scale[..., None] * matrix * scale[:, None]


def class_graph(probabilities: Tensor) -> Tensor:
    """Eqs. (6), (7): the matrix (B, N, N) of the class-level graph."""
    labels = probabilities.argmax(-1)
    matrix = (probabilities @ probabilities.mT) * (labels[:, :, None] == labels[:, None])
    matrix.diagonal(dim1=1, dim2=2).fill_(1)
    scale = matrix.sum(-1).rsqrt()
    return scale[..., None] * matrix * scale[:, None]


class Refiner(nn.Module):
    """Algorithm 1 with both matrices, over nodes (B, N, ...): probabilities and features of rounds 0..K."""

    def __init__(self, num_classes: int, feature_dim: int, num_rounds: int = 2, hidden_dim: int = 64):
        super().__init__()

        def residual(width: int) -> nn.Sequential:
            layers = [nn.Linear(2 * width, hidden_dim), nn.LayerNorm(hidden_dim), nn.GELU()]
            last = nn.Linear(hidden_dim, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            return nn.Sequential(*layers, last)

        self.label_maps = nn.ModuleList(residual(num_classes) for _ in range(num_rounds))
        self.feature_maps = nn.ModuleList(residual(feature_dim) for _ in range(num_rounds))

    def forward(self, features: Tensor, logits: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        probabilities = logits.softmax(-1)
        confidence, labels = probabilities.detach().max(-1)
        counts = logits.new_zeros(logits.shape[-1])
        counts = counts.scatter_add_(0, labels.flatten(), (confidence > SIGMA).to(logits.dtype).flatten())
        threshold = SIGMA * counts / counts.max().clamp_min(1)
        share = torch.where(confidence >= threshold[labels], ALPHA, 1 - ALPHA)[..., None]
        rounds, feature_rounds = [probabilities], [features]
        for label_map, feature_map in zip(self.label_maps, self.feature_maps, strict=True):
            with torch.no_grad():
                graph = affinity(features)
            moved = graph @ probabilities
            moved = moved / moved.sum(-1, keepdim=True)
            moved = moved * torch.exp(10 * torch.tanh(label_map(torch.cat([probabilities, moved], -1)) / 10))
            moved = moved / moved.sum(-1, keepdim=True)
            probabilities = share * moved + (1 - share) * probabilities
            with torch.no_grad():
                graph = class_graph(probabilities)
            own = F.normalize(features, dim=-1)
            brought = F.normalize(graph @ own, dim=-1)
            features = F.normalize(0.5 * own + 0.5 * brought, dim=-1) + feature_map(torch.cat([own, brought], -1))
            rounds.append(probabilities)
            feature_rounds.append(features)
        return rounds, feature_rounds


def pool_labels(labels: Tensor, size: tuple[int, int], num_classes: int) -> Tensor:
    """Majority of each cell, (B, H, W) to (B, h, w): all classes at once, ties to the first."""
    votes = F.one_hot(labels, num_classes).movedim(-1, 1).float()
    return F.adaptive_avg_pool2d(votes, size).argmax(1)


def slg_loss(features: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Eq. (12) over all ordered pairs of (B, N, D) nodes and the prototypes (C, D)."""
    rows = F.normalize(features, dim=-1)
    same = (labels[:, :, None] == labels[:, None]).to(rows.dtype)
    pairs = (rows @ rows.mT - same).square().mean()
    scores = rows @ F.normalize(prototypes, dim=-1).T / 0.1
    return 0.5 * pairs + 0.5 * F.cross_entropy(scores.flatten(0, 1), labels.flatten())


def clg_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Eqs. (15), (16) for nodes (B, N, C)."""
    believed = probabilities.gather(-1, labels[..., None])[..., 0]
    return -(believed.detach() * believed.log()).mean()


def correction_loss(
    rounds: Sequence[Tensor], feature_rounds: Sequence[Tensor], labels: Tensor, prototypes: Tensor
) -> Tensor:
    """Eq. (17): one loss a round of each kind."""
    total = torch.stack([clg_loss(probabilities, labels) for probabilities in rounds]).sum()
    for features, own in zip(feature_rounds[1:], prototypes, strict=True):
        total = total + 0.1 * slg_loss(features, labels, own)
    return total


class Prototypes:
    """Eqs. (13), (14) as a product with one-hot rows."""

    def __init__(self, num_classes: int, feature_dim: int, num_rounds: int, like: Tensor):
        self.prototypes = like.new_zeros(num_rounds, num_classes, feature_dim)
        self.is_seen = torch.zeros(num_rounds, num_classes, dtype=torch.bool, device=like.device)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, number: int) -> None:
        hot = F.one_hot(labels.flatten(), self.prototypes.shape[1]).to(features.dtype)
        counts = hot.sum(0)[:, None]
        mean = hot.T @ features.flatten(0, 1) / counts.clamp_min(1)
        old = self.prototypes[number]
        moved = torch.where(self.is_seen[number][:, None], torch.lerp(mean, old, 0.99), mean)
        self.prototypes[number] = torch.where(counts > 0, moved, old)
        self.is_seen[number] |= counts[:, 0] > 0


class Anchors:
    """A sample of each class by random keys, kept by one sort, and looked up by one product and `topk`."""

    def __init__(self, num_classes: int, feature_dim: int, capacity: int, like: Tensor):
        self.capacity, self.num_classes = capacity, num_classes
        self.rows = like.new_zeros(num_classes * capacity, feature_dim)
        self.keys = like.new_full((num_classes * capacity,), -1.0)  # below 0: empty
        self.classes = torch.arange(num_classes, device=like.device).repeat_interleave(capacity)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        new = F.normalize(features.flatten(0, 1), dim=-1)
        rows, classes = torch.cat([self.rows, new]), torch.cat([self.classes, labels.flatten()])
        keys = torch.cat([self.keys, torch.rand_like(new[:, 0])])
        order = (4 * classes - keys).argsort()
        classes, keys = classes[order], keys[order]
        place = torch.arange(len(order), device=order.device) - torch.searchsorted(classes, classes)
        slot = torch.where(place < self.capacity, classes * self.capacity + place, len(self.rows))
        room = torch.zeros_like(slot[: len(self.rows) + 1]).scatter_(0, slot, order)[:-1]
        self.rows = rows[room]
        self.keys = torch.full_like(keys[: len(self.rows) + 1], -1.0).scatter_(0, slot, keys)[:-1]

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        scores = F.normalize(features.flatten(0, 1), dim=-1) @ self.rows.T
        scores = scores.masked_fill(self.keys < 0, -torch.inf)
        similarity, index = scores.topk(NUM_NEIGHBORS)
        found = self.classes[index]
        counts = (self.keys.view(self.num_classes, -1) >= 0).sum(1)
        weight = (similarity / 0.05).softmax(-1) / counts[found]
        votes = scores.new_zeros(len(scores), self.num_classes).scatter_add_(1, found, weight)
        return votes / votes.sum(-1, keepdim=True)
