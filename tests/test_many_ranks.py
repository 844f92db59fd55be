"""Two, three and four processes on uneven shards are one process; a rank that dies or stays away is an error."""

import multiprocessing
import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import leave
from strategies import random_features, random_labels, random_logits
from torch.nn.parallel import DistributedDataParallel

from graphcorrect import AnchorBank, DualGraphRefiner, DynamicThreshold, LabelCorrectionLoss, PrototypeBank

WORLDS = (4, 3, 2)
FIRST = {4: [0, 2, 2, 3, 5], 3: [0, 0, 4, 5], 2: [0, 4, 5]}  # shard r of the five images: first[r] to first[r + 1]
SCENES = ("plain", "unlabeled rank", "class on one rank", "NaN on one rank")
TIMEOUT = timedelta(seconds=5)


def joined_batch(scene):
    """Five images of twelve nodes: features, logits, labels."""
    features, logits = random_features(5, 12, 4), random_logits(5, 12, 3, scale=1.5)
    labels = random_labels(5, 12, num_classes=3, ignored=0.3)
    if scene == "unlabeled rank":
        labels[4:] = 255
    elif scene == "class on one rank":
        labels[:4] = labels[:4].where(labels[:4] != 2, 0)
        labels[4, :3] = 2
    elif scene == "NaN on one rank":
        features[4, 0, 0] = torch.nan
    return features, logits, labels


class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = torch.nn.Linear(4, 4)
        self.refiner = DualGraphRefiner(3, 4, num_neighbors=4, sigma=0.5)
        self.double()

    def forward(self, features, logits):
        return self.refiner(self.embedding(features), logits)


def step(wrap, features, logits, labels):
    """States, loss and gradients of one training step, and the weights after a scaled optimizer step."""
    bank, anchors = PrototypeBank(3, 4).double(), AnchorBank(3, 4, capacity_per_class=100)
    bank.update(features, labels)
    anchors.update(features, labels)
    student = Student()
    wrapped = wrap(student)
    out = wrapped(features, logits)
    loss = LabelCorrectionLoss()(out, labels, prototypes=bank.prototypes[:1].expand(2, -1, -1)).total
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    scaler.scale(loss).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
    found = {"gradient": torch.cat([g.flatten() for g in gradients]) / 4}
    scaler.step(optimizer)
    scaler.update()
    return found | {
        "thresholds": DynamicThreshold(3, 0.5)(logits.softmax(-1)),
        "prototypes": bank.prototypes[0],
        "known": bank.is_initialized[0],
        "anchors": anchors.counts,
        "posterior": anchors(random_features(5, 4, seed=9)),
        "loss": loss.detach(),
        "weights": torch.cat([p.detach().flatten() for p in student.parameters()]),
        "scale": torch.tensor(scaler.get_scale()),
    }


def work(number, folder):
    torch.set_num_threads(1)
    for world in WORLDS:
        if number >= world:
            return
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store{world}", rank=number, world_size=world, timeout=4 * TIMEOUT
        )
        for scene in SCENES:
            first, last = FIRST[world][number : number + 2]
            shard = [tensor[first:last] for tensor in joined_batch(scene)]
            found = step(lambda m: DistributedDataParallel(m, find_unused_parameters=True), *shard)
            torch.save(found, f"{folder}/{world}-{scene}-{number}.pt")
        leave()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=max(WORLDS))
    return folder


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_learn_what_one_process_learns(folder, world, scene):
    expected = step(lambda model: model, *joined_batch(scene))
    ranks = [torch.load(folder / f"{world}-{scene}-{number}.pt", weights_only=True) for number in range(world)]
    mean_loss = sum(found["loss"] for found in ranks) / world
    for name, wanted in expected.items():
        for found in ranks:
            mine = mean_loss if name == "loss" else found[name]
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9, equal_nan=True, msg=f"{name} of {scene}")
    spoiled = scene == "NaN on one rank"
    assert expected["gradient"].isfinite().all() != spoiled
    assert expected["scale"] == (2.0 if spoiled else 4.0)  # every rank leaves the step out, together
    assert expected["prototypes"].isfinite().all()


def lose_a_rank(number, folder, fate, results):
    """Rank 1 dies, or goes away for good, while the others are at a collective of the library."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=3, timeout=TIMEOUT)
    features, logits, _ = joined_batch("plain")
    DynamicThreshold(3)(logits.softmax(-1))
    if number == 1:
        if fate == "dies":
            os._exit(1)
        time.sleep(60)
    start = time.monotonic()
    try:
        DualGraphRefiner(3, 4, num_neighbors=4)(features, logits)
        results.put((number, "no error", 0.0))
    except RuntimeError as error:
        results.put((number, str(error), time.monotonic() - start))
    results.close()
    results.join_thread()
    os._exit(0)


@pytest.mark.parametrize("fate", ["dies", "stays away"])
def test_a_lost_rank_is_an_error_for_the_others_and_no_hang(tmp_path, fate):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=lose_a_rank, args=(n, str(tmp_path), fate, results)) for n in range(3)]
    for process in ranks:
        process.start()
    try:
        told = [results.get(timeout=90) for _ in range(2)]
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert {number for number, _, _ in told} == {0, 2}
    for _, message, seconds in told:
        assert message != "no error"
        assert seconds < TIMEOUT.total_seconds() + 30  # the machine may be busy
