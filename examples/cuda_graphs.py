"""Refiner and loss as one CUDA graph: a training step launches them once, instead of some hundreds of small kernels.

python examples/cuda_graphs.py                   # on a GPU: times both; on a CPU: the same steps, launched one by one
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import DualGraphRefiner, LabelCorrectionLoss, PrototypeBank

NUM_CLASSES, DIM = 21, 64


class Correction(nn.Module):
    """Refiner and loss as a function of tensors alone: all that a CUDA graph takes and gives back."""

    def __init__(self, refiner: DualGraphRefiner):
        super().__init__()
        self.refiner = refiner
        self.criterion = LabelCorrectionLoss(validate_args=False)  # nothing is read on the way, so nothing waits

    def forward(
        self, features: Tensor, logits: Tensor, labels: Tensor, prototypes: Tensor, prototype_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """The loss, and the features of each round for the bank of prototypes."""
        out = self.refiner(features, logits)
        loss = self.criterion(out, labels, prototypes=prototypes, prototype_mask=prototype_mask)
        return loss.total, *(values.detach() for values in out.features[1:])


def graphed(correction: Correction, *inputs: Tensor) -> Correction:
    """Captures forward and backward for inputs of these shapes, dtypes and gradients; on a CPU changes nothing."""
    if not inputs[0].is_cuda:
        return correction
    return torch.cuda.make_graphed_callables(correction, inputs)


def main(steps: int = 20, side: int = 24, device: str | None = None) -> list[float]:
    """Trains a small network with a refiner, and returns the network's own loss at each step."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, DIM, 3, padding=1), nn.ReLU(), nn.Conv2d(DIM, DIM, 3, padding=1)).to(device)
    classifier = nn.Conv2d(DIM, NUM_CLASSES, 1).to(device)
    correction = Correction(DualGraphRefiner(NUM_CLASSES, DIM).to(device))
    bank = PrototypeBank(NUM_CLASSES, DIM).to(device)
    optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters(), *correction.parameters()], lr=0.01)
    images = torch.rand(2, 3, side, side).to(device)
    labels = torch.randint(NUM_CLASSES, (2, side, side)).to(device)

    # Samples of what each step brings: where a gradient is wanted, the sample wants one too
    features = network(images).detach().requires_grad_()
    logits = classifier(features).detach().requires_grad_()
    correction = graphed(correction, features, logits, labels, bank.prototypes, bank.is_initialized)

    losses, seconds = [], []
    for _ in range(steps):
        start = time.perf_counter()
        features = network(images)
        logits = classifier(features)
        own_loss = F.cross_entropy(logits, labels)
        loss, *rounds = correction(features, logits, labels, bank.prototypes, bank.is_initialized)
        optimizer.zero_grad()
        (own_loss + loss).backward()
        optimizer.step()
        for number, values in enumerate(rounds):  # outside the graph: it checks the labels
            bank.update(values, labels, round=number)
        losses.append(float(own_loss.detach()))
        seconds.append(time.perf_counter() - start)
    kind = "one CUDA graph" if device == "cuda" else "launched one by one"
    print(
        f"{kind}: cross entropy {losses[0]:.3f} -> {losses[-1]:.3f}; {1e3 * sorted(seconds)[steps // 2]:.1f} ms a step"
    )
    return losses


if __name__ == "__main__":
    main()
