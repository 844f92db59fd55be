"""Two processes on uneven shards, also an empty and an unlabeled one, hold and learn what one process does."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import leave
from strategies import random_features, random_labels, random_logits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from graphcorrect import (
    AnchorBank,
    DualGraphRefiner,
    DynamicThreshold,
    LabelCorrectionLoss,
    PrototypeBank,
    calibrate,
    clg_loss,
    label_issues,
    slg_loss,
)
from graphcorrect.distributed import gather_rows, rank, sum_over_ranks, world_size

SHARDS = {"uneven": [(0, 2), (2, 3)], "one empty": [(0, 3), (3, 3)], "first empty": [(0, 0), (0, 3)]}
PROTOTYPES = random_features(2, 3, 4, seed=77)
KNOWN = torch.tensor([True, False, True])


def joined_batch(labeled="everywhere"):
    """Three images: features, labels, logits. Labels may be missing from the last one, or from all."""
    features, logits = random_features(3, 12, 4), random_logits(3, 12, 3, scale=1.5)
    labels = random_labels(3, 12, num_classes=3, ignored=0.3)
    if labeled != "everywhere":
        labels[2 if labeled == "not in the last image" else slice(None)] = 255
    return features, labels, logits


class Student(nn.Module):
    """A head for features and one for logits, and a refiner after them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.head, self.embedding = nn.Linear(4, 3), nn.Linear(4, 4)
        self.refiner = DualGraphRefiner(3, 4, num_neighbors=4, sigma=0.5)
        self.double()

    def forward(self, x):
        return self.refiner(self.embedding(x), self.head(x))


def learn(wrap, features, labels, logits):
    """Everything that may depend on who holds what, as a dictionary of tensors."""
    found = {}
    probabilities = logits.softmax(-1)
    found["threshold"] = DynamicThreshold(3, 0.5)(probabilities)
    counting = DynamicThreshold(3, 0.5, accumulate=True)
    counting.update(probabilities)
    found["counts"] = counting.counts
    bank = PrototypeBank(3, 4, momentum=0.9).double()
    bank.update(features, labels)
    bank.update(features * 2, torch.where(labels == 255, 255, (labels + 1) % 3))
    found["prototypes"], found["is_initialized"] = bank.prototypes, bank.is_initialized
    anchors = AnchorBank(3, 4, capacity_per_class=100).double()
    anchors.update(features, labels)
    anchors.update(features * -1, labels)
    found["anchor counts"] = anchors.counts
    if anchors.counts.sum() > 0:
        found["anchor posterior"] = anchors(random_features(5, 4, seed=9))
    losses = {
        "slg": lambda out: slg_loss(out.features[0], labels, PROTOTYPES[0], KNOWN),
        "slg without prototypes": lambda out: slg_loss(out.features[0], labels, num_classes=3),
        "clg": lambda out: clg_loss(out.probabilities[0], labels),
        "all": lambda out: LabelCorrectionLoss()(out, labels, prototypes=PROTOTYPES).total,
    }
    for name, loss_of in losses.items():
        student = Student()
        wrapped = wrap(student)
        loss = loss_of(wrapped(features))
        loss.backward()
        found[f"{name} loss"] = loss.detach()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
        found[f"{name} gradient"] = torch.cat([g.flatten() for g in gradients])
    small = AnchorBank(3, 4, capacity_per_class=2)
    for _ in range(3):
        small.update(features, labels)
    found["full bank"] = small.features  # a sample, drawn for the joined batch
    limited = AnchorBank(3, 4, quota_per_image=1)
    limited.update(features, labels)
    found["bank with a quota"] = limited.features
    return found


def by_itself():
    """What a process may do while the others do something else."""
    features, labels, logits = joined_batch()
    bank = AnchorBank(3, 4, capacity_per_class=2, quota_per_image=1, synchronize=False).double()
    for _ in range(2):
        bank.update(features, labels)
    found = {"features": bank.features, "num_seen": bank.num_seen, "posterior": bank(features)}
    joining = AnchorBank(3, 4).double()  # which calibration fills anew
    chosen = calibrate(joining, list(features), list(labels), list(logits.softmax(-1)), folds=3)
    assert joining.synchronize
    found["calibrated"] = torch.tensor([*chosen.settings, chosen.before, chosen.after])
    maps = [features.mT.unflatten(-1, (3, 4)), logits.softmax(-1).mT.unflatten(-1, (3, 4))]
    with torch.no_grad():
        found["evaluated"] = LabelCorrectionLoss()(DualGraphRefiner(3, 4).eval()(features, logits), labels).total
    issues = label_issues(labels.unflatten(-1, (3, 4)), maps[1], features=maps[0])
    return found | {"scores": issues.pixel_scores}


def work(number, folder):
    """One of the two processes."""
    torch.set_num_threads(1)
    options = {"rank": number, "world_size": 2, "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", **options)
    found = {}
    for shards in SHARDS:
        for labeled in ("everywhere", "not in the last image", "nowhere"):
            first, last = SHARDS[shards][number]
            shard = [tensor[first:last] for tensor in joined_batch(labeled)]
            found[shards, labeled] = learn(lambda m: DistributedDataParallel(m, find_unused_parameters=True), *shard)
    rows = torch.arange(3.0 * number).reshape(3 * number, 1)
    found["gathered"], found["none gathered"] = gather_rows(rows), gather_rows(rows[:0])
    found["sum"], found["world"] = sum_over_ranks(torch.tensor([1, 10**18]) * (number + 1)), (rank(), world_size())
    if number == 0:
        found["by itself"] = by_itself()
    torch.save(found, f"{folder}/{number}.pt")
    leave()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


@pytest.mark.parametrize("labeled", ["everywhere", "not in the last image", "nowhere"])
@pytest.mark.parametrize("shards", SHARDS)
def test_two_processes_are_one(ranks, shards, labeled):
    one = learn(lambda model: model, *joined_batch(labeled))
    for name, expected in one.items():
        first, second = (found[shards, labeled][name] for found in ranks)
        if name.endswith(" loss"):  # DDP averages gradients, so values are to be averaged too
            torch.testing.assert_close((first + second) / 2, expected, rtol=1e-10, atol=1e-10, msg=name)
            continue
        torch.testing.assert_close(first, second, rtol=0, atol=0, msg=name)
        torch.testing.assert_close(first, expected, rtol=1e-10, atol=1e-10, msg=name)
    if labeled == "everywhere":
        assert all(one[name].abs().max() > 1e-3 for name in one if name.endswith("gradient"))


def test_a_process_fills_banks_of_its_own_by_itself(ranks):
    expected = by_itself()
    assert expected["num_seen"].sum() > 0
    for name, found in ranks[0]["by itself"].items():
        assert torch.equal(found, expected[name]), name


def test_rows_of_unequal_number_are_gathered_in_rank_order(ranks):
    for number, found in enumerate(ranks):
        assert found["gathered"].tolist() == [[0.0], [1.0], [2.0]]
        assert found["none gathered"].shape == (0, 1)
        assert found["sum"].tolist() == [3, 3 * 10**18]
        assert found["world"] == (number, 2)


def test_on_one_process_nothing_is_exchanged():
    assert (rank(), world_size()) == (0, 1)
    rows = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(gather_rows(rows), rows)
    assert torch.equal(sum_over_ranks(rows), rows)
    assert not gather_rows(rows).requires_grad
