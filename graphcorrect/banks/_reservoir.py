"""A uniform sample of each class, kept in a fixed number of slots while nodes come in.

A node draws a random number u in (0, 1) and has the priority log(u); a class keeps the nodes of largest priority.
Shapes depend on those of the input alone, so that nothing waits for a GPU, and of the bank only the rows that may be
replaced are read and written.
"""

import torch
from torch import Tensor

RANDOM_BITS = 40  # which leave 23 bits of an int64 for a group number to sort by
_MASK = 2**RANDOM_BITS - 1
# Of splitmix64, as signed integers, and odd numbers for seed and stream
_GOLDEN, _MIX_1, _MIX_2 = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SEED, _STREAM = 0xA0761D6478BD642F, 0x5851F42D4C957F2D


def draw(count: int, seed: int, stream: Tensor) -> Tensor:
    """Random integers in [0, 2^40) for the positions 0 to count - 1, int64: the same on every device and every rank.

    They are splitmix64 of (seed, stream, position), with the shifts of signed integers. `stream`, () int64, is not
    read by the host.
    """
    start = stream * _STREAM + (seed + 1) * _SEED % 2**63
    bits = torch.add(start, torch.arange(count, device=stream.device), alpha=_GOLDEN)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits = (bits ^ (bits >> shift)) * factor
    drawn: Tensor = (bits ^ (bits >> 31)) & _MASK
    return drawn


def priority_of(draws: Tensor) -> Tensor:
    """log(u), float32, for u = 1 - (draw + 1/2) / 2^40: the smaller the draw, the larger the priority.

    By log1p: close to u = 1, where the largest priorities are, float32 tells few u apart.
    """
    return ((draws.float() + 0.5) * -(2.0**-RANDOM_BITS)).clamp_min_(2.0**-24 - 1).log1p_()


def limit_per_group(groups: Tensor, draws: Tensor, limit: int) -> Tensor:
    """(N,) bool: whether a node is among the `limit` of its group with the smallest draws."""
    order = draws.argsort()
    order = order[groups[order].argsort(stable=True)]  # not by one number: images times classes may be too many
    return torch.empty_like(order, dtype=torch.bool).scatter_(0, order, place_in_group(groups[order]) < limit)


def first_of_images(labels: Tensor) -> Tensor:
    """One for the first node of each image of labels (..., N), else 0: int64, flattened."""
    starts = torch.zeros_like(labels)
    starts[..., :1] = 1
    return starts.reshape(-1)


def place_in_group(sorted_groups: Tensor) -> Tensor:
    """For group numbers in ascending order: how many of the same number stand before each."""
    places = torch.arange(len(sorted_groups), device=sorted_groups.device)
    return places - torch.searchsorted(sorted_groups, sorted_groups)


def offer(features: Tensor, priority: Tensor, rows: Tensor, labels: Tensor, draws: Tensor, decay: float) -> None:
    """Lets nodes replace those of their class that have a lower priority, in place.

    The i-th best new node of a class meets the i-th worst slot, empty ones being the worst, and takes it if its
    priority is larger: what stays are the largest priorities of both.

    Args:
        features: (C, S, D), the slots.
        priority: (C, S), -inf in empty slots, which are the last ones of each class.
        rows: (N, D), with N above 0.
        labels: (N,) int64 in [0, C]; C leaves a node out.
        draws: (N,) of :func:`draw`.
        decay: divides the priorities of classes with new nodes first. A random number u becomes u^(1 / weight): with
            weights that fall by `decay` at each offer, older nodes sink. Classes without new nodes make no room.
    """
    num_classes, num_slots = priority.shape
    ordered, order = ((labels << RANDOM_BITS) | draws).sort()
    labels = ordered >> RANDOM_BITS
    new_priority = priority_of(ordered & _MASK).to(priority.dtype)
    if decay < 1.0:
        is_offered = torch.zeros(num_classes + 1, dtype=torch.bool, device=labels.device).scatter_(0, labels, True)
        # never down to an empty slot's
        aged = (priority / decay).clamp_min(torch.finfo(priority.dtype).min)
        priority.copy_(torch.where(is_offered[:-1, None] & (priority > -torch.inf), aged, priority))
    depth = min(len(rows), num_slots)
    worst, slot = priority.topk(depth, largest=False)  # of each class
    place = place_in_group(labels)
    # What cannot stay repeats the first node's write, so that every write has a slot and equal slots get equal rows
    is_candidate = (labels < num_classes) & (place < depth)
    label = torch.where(is_candidate, labels, labels[:1]).clamp_max(num_classes - 1)
    place = torch.where(is_candidate, place, 0)
    order = torch.where(is_candidate, order, order[:1])
    new_priority = torch.where(is_candidate, new_priority, new_priority[:1])
    meeting = label * depth + place
    count = (priority > -torch.inf).sum(1)[label]
    slot = torch.where(place < num_slots - count, count + place, slot.view(-1)[meeting])  # empty ones in their order
    target = label * num_slots + slot
    old_priority = worst.view(-1)[meeting]
    wins = is_candidate[:1] & (new_priority > old_priority)  # the first is none if there is none
    flat = features.view(-1, features.shape[-1])
    flat.index_copy_(0, target, torch.where(wins[:, None], rows[order], flat[target]))
    priority.view(-1).index_copy_(0, target, torch.where(wins, new_priority, old_priority))
