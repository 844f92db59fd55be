"""torch-geometric: nodes with wrong labels, corrected beside PyG's LabelPropagation and CorrectAndSmooth.

The nodes are scikit-learn's 1797 handwritten digits. First, 40 % of the labels name another digit, nobody knows which.
Then, what Correct and Smooth was made for: 100 labels are sure, there are no others, and a classifier has an opinion.
All methods walk the same kNN graph; PyG's are shown at the best of four values of alpha.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.nn import CorrectAndSmooth, LabelPropagation

from graphcorrect import AnchorBank, DualGraphRefiner, KNNAffinity, metrics, pyg

ALPHAS = (0.5, 0.8, 0.9, 0.95)


def noisy_digits(noise: float = 0.4) -> Data:
    """Nodes with `x` (N, 64), the true `y` (N,), and `noisy` labels (N,), on a graph of the most similar ones."""
    digits = load_digits()
    x, y = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    other = (y + torch.randint(1, 10, y.shape)) % 10
    noisy = torch.where(torch.rand(y.shape) < noise, other, y)
    return pyg.to_data(KNNAffinity(num_neighbors=20)(x), x=x, y=y, noisy=noisy)


def opinion(data: Data, labels: Tensor, known: Tensor) -> Tensor:
    """What a small network says of every node, (N, 10), after training on the labels of the known ones."""
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(100):
        loss = F.cross_entropy(network(data.x)[known], labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network(data.x).softmax(-1).detach()


def correct_and_smooth(data: Data, soft: Tensor, labels: Tensor, known: Tensor, alpha: float) -> Tensor:
    layer = CorrectAndSmooth(50, alpha, 50, alpha, autoscale=False)
    soft = layer.correct(soft, labels[known], known, data.edge_index, data.edge_weight)
    return layer.smooth(soft, labels[known], known, data.edge_index, data.edge_weight).argmax(-1)


def wrong_labels(data: Data, refiner: DualGraphRefiner) -> dict[str, float]:
    """The share of right labels after each method, where any label may be wrong."""
    everybody = torch.ones(data.num_nodes, dtype=torch.bool)
    soft = opinion(data, data.noisy, everybody)
    spread = [
        LabelPropagation(50, alpha)(data.noisy, data.edge_index, edge_weight=data.edge_weight).argmax(-1)
        for alpha in ALPHAS
    ]
    smooth = [correct_and_smooth(data, soft, data.noisy, everybody, alpha) for alpha in ALPHAS]

    data.logits = (0.9 * F.one_hot(data.noisy, 10) + 0.01).log()  # how far a label is believed
    refined = pyg.refine(refiner, data)
    counts = metrics.correction_counts(data.noisy, refined.pseudo_labels, data.y)
    print(f"graphcorrect: {counts.fixed} labels fixed, {counts.broken} broken")

    # A batch of graphs of unequal size: each is refined by itself
    pieces = zip(data.x.split(700), data.logits.split(700), strict=True)
    batch = pyg.refine(refiner, Batch.from_data_list([Data(x=x, logits=logits) for x, logits in pieces]))
    return {
        "as given": share(data.noisy, data.y),
        "LabelPropagation": max(share(labels, data.y) for labels in spread),
        "CorrectAndSmooth": max(share(labels, data.y) for labels in smooth),
        "graphcorrect, Data": share(refined.pseudo_labels, data.y),
        "graphcorrect, Batch of 3": share(batch.pseudo_labels, data.y),
    }


def few_sure_labels(data: Data, refiner: DualGraphRefiner, num_sure: int = 100) -> dict[str, float]:
    """The same on the nodes without a label, where the others' are sure."""
    sure = torch.zeros(data.num_nodes, dtype=torch.bool)
    sure[torch.randperm(data.num_nodes)[:num_sure]] = True
    soft = opinion(data, data.y, sure)
    anchors = AnchorBank(num_classes=10, feature_dim=64)
    anchors.update(data.x[sure], data.y[sure])
    smooth = [correct_and_smooth(data, soft, data.y, sure, alpha) for alpha in ALPHAS]
    corrected = refiner(data.x, soft.log(), anchors=anchors).pseudo_labels
    return {
        "the network's opinion": share(soft.argmax(-1)[~sure], data.y[~sure]),
        "CorrectAndSmooth": max(share(labels[~sure], data.y[~sure]) for labels in smooth),
        "graphcorrect, AnchorBank": share(corrected[~sure], data.y[~sure]),
    }


def share(labels: Tensor, truth: Tensor) -> float:
    return (labels == truth).float().mean().item()


def main() -> tuple[dict[str, float], dict[str, float]]:
    """Prints and returns the share of right labels of each method in both settings."""
    torch.manual_seed(0)
    data = noisy_digits()
    refiner = DualGraphRefiner(num_classes=10, feature_dim=64, num_neighbors=20)
    results = wrong_labels(data, refiner), few_sure_labels(data, refiner)
    for title, result in zip(("40 % wrong labels", "100 sure labels"), results, strict=True):
        print(f"\n{title}")
        for name, right in result.items():
            print(f"  {name:<26}{right:.1%}")
    return results


if __name__ == "__main__":
    main()
