"""Inputs for tests: random ones, ones whose answer is known in closed form, and awkward ones."""

import torch
from hypothesis import strategies as st

IGNORE = 255


def draw(seed):
    """A generator that makes the same numbers every time."""
    return torch.Generator().manual_seed(seed)


def random_features(*shape, seed=0, dtype=torch.float64):
    """Normal features in float64 unless told otherwise; ties have probability zero."""
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64).to(dtype)


def random_logits(*shape, seed=1, scale=3.0, dtype=torch.float64):
    """Normal logits, wide enough that some nodes pass sigma = 0.95 and some do not."""
    return (scale * torch.randn(*shape, generator=draw(seed), dtype=torch.float64)).to(dtype)


def random_labels(*shape, num_classes, seed=2, ignored=0.0):
    """Labels drawn evenly, a share of them ignored."""
    labels = torch.randint(num_classes, shape, generator=draw(seed))
    return torch.where(torch.rand(shape, generator=draw(seed + 1)) < ignored, IGNORE, labels)


def orthogonal_clusters(num_clusters=3, size=4, dtype=torch.float64):
    """Clusters of equal rows of any length, at right angles to each other; with k = size - 1, A = (1 - I) / (size - 1).

    Returns (features, labels): averaging over the graph is the mean of the other members of one's cluster.
    """
    labels = torch.arange(num_clusters).repeat_interleave(size)
    lengths = 1.0 + torch.arange(len(labels), dtype=dtype)
    return torch.eye(num_clusters, dtype=dtype)[labels] * lengths[:, None], labels


def identical_features(num_nodes=6, width=4, dtype=torch.float64):
    """Every node the same: all similarities are one, all ties."""
    return torch.ones(num_nodes, width, dtype=dtype)


def label_spreading_limit(graph, values, alpha):
    """(1 - alpha) (I - alpha S)^-1 Y, where F <- alpha S F + (1 - alpha) Y settles (Zhou et al. 2004)."""
    system = torch.eye(len(graph), dtype=graph.dtype) - alpha * graph
    return (1 - alpha) * torch.linalg.solve(system, values)


def awkward_nodes(width=4, num_classes=3):
    """Name -> (features, logits): the graphs on which averages divide by nothing. All are nodes (B, N, ...)."""
    full = random_features(2, 8, width)
    one_class = torch.zeros(2, 8, num_classes, dtype=torch.float64)
    one_class[..., 1] = 9.0
    one_hot = torch.zeros(2, 8, num_classes, dtype=torch.float64)
    one_hot[..., 0] = 200.0  # softmax gives exact zeros in float32
    some_zero = full.clone()
    some_zero[:, ::2] = 0.0
    logits = random_logits(2, 8, num_classes)
    return {
        "zero features": (torch.zeros_like(full), logits),
        "some zero features": (some_zero, logits),
        "duplicates": (full[:, :2].repeat(1, 4, 1), logits),
        "identical features": (torch.ones_like(full), logits),
        "opposite features": (torch.cat([full[:, :4], -full[:, :4]], 1), logits),
        "one class only": (full, one_class),
        "one-hot logits": (full, one_hot),
        "uniform logits": (full, torch.zeros_like(one_class)),
        "one node": (full[:, :1], logits[:, :1]),
        "no nodes": (full[:, :0], logits[:, :0]),
        "empty batch": (full[:0], logits[:0]),
        "batch of one": (full[:1], logits[:1]),
    }


@st.composite
def features_strategy(draw_from, min_nodes=2, max_nodes=12, max_width=5):
    """Float64 features (N, D), sometimes with zero rows and duplicated rows, so ties and empty rows occur."""
    num_nodes = draw_from(st.integers(min_nodes, max_nodes))
    width = draw_from(st.integers(1, max_width))
    features = random_features(num_nodes, width, seed=draw_from(st.integers(0, 10_000)))
    for row in draw_from(st.lists(st.integers(0, num_nodes - 1), max_size=3)) if num_nodes else []:
        features[row] = draw_from(st.sampled_from([0.0, 1.0])) * features[0]
    return features


@st.composite
def probabilities_strategy(draw_from, min_nodes=1, max_nodes=12, max_classes=5):
    """Rows (N, C) on the simplex, from nearly uniform to nearly one-hot; some classes may win no node."""
    num_nodes = draw_from(st.integers(min_nodes, max_nodes))
    num_classes = draw_from(st.integers(2, max_classes))
    scale = draw_from(st.sampled_from([0.1, 3.0, 20.0]))
    return random_logits(num_nodes, num_classes, seed=draw_from(st.integers(0, 10_000)), scale=scale).softmax(1)


@st.composite
def labels_strategy(draw_from, num_nodes, num_classes):
    """Labels (N,) in which classes may be absent and any share, also all, may be ignored."""
    values = st.sampled_from([*range(num_classes), IGNORE])
    labels = draw_from(st.lists(values, min_size=num_nodes, max_size=num_nodes))
    return torch.tensor(labels, dtype=torch.int64)
