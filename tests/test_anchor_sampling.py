"""AnchorBank: which labeled nodes it keeps, a fair sample of each class."""

import pytest
import reference
import torch
from strategies import random_features, random_labels
from torch.utils._python_dispatch import TorchDispatchMode

from graphcorrect import AnchorBank
from graphcorrect.banks import _reservoir


def held(bank):
    """The rows of each class, sorted, so that two banks can be compared whatever their order."""
    rows = [bank.features[c][bank.priority[c] > -torch.inf] for c in range(bank.num_classes)]
    return [sorted(map(tuple, r.tolist())) for r in rows]


def test_each_class_keeps_up_to_its_capacity_of_its_own_rows():
    features, labels = random_features(200, 3), random_labels(200, num_classes=3)
    labels[labels == 2] = 0
    labels[7:10] = 2
    bank = AnchorBank(4, 3, capacity_per_class=20).double()
    bank.update(features[:100], labels[:100])
    bank.update(features[100:], labels[100:])
    assert bank.counts.tolist() == [20, 20, 3, 0]
    offered = {tuple(row) for row in reference.unit(features).tolist()}
    for c, rows in enumerate(held(bank)):
        near = [min(((torch.tensor(o) - torch.tensor(r)).norm().item(), o) for o in offered) for r in rows]
        assert all(distance < 1e-12 for distance, _ in near)
        assert len({o for _, o in near}) == len(rows)
        own = {tuple(row) for row in reference.unit(features[labels == c]).tolist()}
        assert {o for _, o in near} <= own


def test_early_and_late_nodes_are_equally_likely_to_stay():
    early_kept = []
    for seed in range(300):
        bank = AnchorBank(1, 2, capacity_per_class=10, seed=seed)
        bank.update(torch.tensor([[1.0, 0.0]]).expand(30, 2), torch.zeros(30).long())
        bank.update(torch.tensor([[0.0, 1.0]]).expand(10, 2), torch.zeros(10).long())
        early_kept.append(bank.features[0, :, 0].sum().item())
    # hypergeometric: mean 7.5, standard deviation 1.2; the mean of 300 is within 4 of its own deviations
    assert abs(sum(early_kept) / 300 - 7.5) < 0.28
    assert len(set(early_kept)) > 3


def test_with_decay_late_nodes_are_likelier_to_stay():
    bank = AnchorBank(1, 2, capacity_per_class=500, decay=0.2)
    bank.update(torch.tensor([[1.0, 0.0]]).expand(500, 2), torch.zeros(500).long())
    bank.update(torch.tensor([[0.0, 1.0]]).expand(500, 2), torch.zeros(500).long())
    assert bank.features[0, :, 1].sum() > 350


def test_a_class_that_is_long_absent_keeps_its_anchors_under_decay():
    bank = AnchorBank(2, 2, capacity_per_class=4, decay=0.5)
    bank.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    for _ in range(300):
        bank.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert bank.counts.tolist() == [4, 1]


def test_a_resumed_bank_goes_on_as_if_never_interrupted():
    bank = AnchorBank(3, 2, capacity_per_class=5)
    bank.update(random_features(30, 2, dtype=torch.float32), random_labels(30, num_classes=3))
    resumed = AnchorBank(3, 2, capacity_per_class=5)
    resumed.load_state_dict(bank.state_dict())
    for one in (bank, resumed):
        one.update(random_features(30, 2, seed=8, dtype=torch.float32), random_labels(30, num_classes=3, seed=9))
    assert held(bank) == held(resumed)
    assert torch.equal(bank(torch.ones(2, 2)), resumed(torch.ones(2, 2)))


@pytest.mark.parametrize("capacity", [1, 5, 40])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_slots_hold_exactly_the_largest_priorities(capacity, decay):
    num_classes, kept = 4, {c: [] for c in range(4)}
    bank = AnchorBank(num_classes, 3, capacity_per_class=capacity, decay=decay).double()
    for step, size in enumerate([50, 7, 1, 90, 30]):
        features, labels = random_features(size, 3, seed=step), random_labels(size, num_classes=5, seed=step)
        labels = torch.where(labels == 4, 255, labels).where(labels != step % 3, 255)
        priority = _reservoir.priority_of(_reservoir.draw(size, 0, torch.tensor(step)))
        bank.update(features, labels)
        for c in range(num_classes):
            rows = reference.unit(features).tolist()
            new = [(priority[i].item(), tuple(rows[i])) for i in range(size) if labels[i] == c]
            old = [(p / decay, row) for p, row in kept[c]] if new else kept[c]
            kept[c] = sorted(old + new, reverse=True)[:capacity]
    expected_rows = [sorted(row for _, row in kept[c]) for c in range(num_classes)]
    for c, (rows, expected) in enumerate(zip(held(bank), expected_rows, strict=True)):
        torch.testing.assert_close(torch.tensor(rows), torch.tensor(expected), msg=f"class {c}")
        found, wanted = bank.priority[c].sort(descending=True).values, [p for p, _ in kept[c]]
        torch.testing.assert_close(found[: len(wanted)], torch.tensor(wanted, dtype=torch.float64))
        assert (found[len(wanted) :] == -torch.inf).all()
        assert (bank.priority[c, : len(wanted)] > -torch.inf).all()  # slots are filled from the first one on


def test_draws_are_uniform_and_streams_differ():
    draws = torch.stack([_reservoir.draw(10_000, seed, torch.tensor(n)) for seed in (0, 1, -5) for n in (0, 1)])
    assert draws.unique().numel() == draws.numel()
    uniform = draws.double() / 2**40
    assert 0 <= uniform.min() < uniform.max() < 1
    torch.testing.assert_close(uniform.mean(1), torch.full((6,), 0.5).double(), rtol=0, atol=0.015)  # 5 deviations
    torch.testing.assert_close(uniform.var(1), torch.full((6,), 1 / 12).double(), rtol=0, atol=0.005)
    assert (torch.corrcoef(uniform) - torch.eye(6)).abs().max() < 0.05
    assert (torch.corrcoef(torch.stack([uniform[0, :-1], uniform[0, 1:]]))[0, 1]).abs() < 0.05
    priority = _reservoir.priority_of(torch.tensor([0, 2**40 - 1]))
    assert priority[0] < 0
    assert priority[0] > -1e-11
    assert priority[1].isfinite()


def test_the_same_seed_gives_the_same_bank_and_another_seed_another():
    banks = [AnchorBank(2, 3, capacity_per_class=5, seed=seed).double() for seed in (1, 1, 2)]
    for bank in banks:
        bank.update(random_features(60, 3), random_labels(60, num_classes=2))
    assert held(banks[0]) == held(banks[1])
    assert held(banks[0]) != held(banks[2])


def test_one_image_offers_no_more_than_its_quota():
    labels = torch.tensor([[0] * 10 + [1] * 2, [0] * 12, [1] * 12])
    features = torch.eye(36, dtype=torch.float64).reshape(3, 12, 36)
    bank = AnchorBank(2, 36, quota_per_image=3).double()
    bank.update(features, labels)
    assert bank.counts.tolist() == [6, 5]
    places = [[row.index(1.0) // 12 for row in rows] for rows in held(bank)]
    assert [sorted(each) for each in places] == [[0, 0, 0, 1, 1, 1], [0, 0, 2, 2, 2]]
    images = AnchorBank(2, 36, quota_per_image=3).double()
    images.update(features.mT.reshape(3, 36, 3, 4), labels.reshape(3, 3, 4))
    assert held(images) == held(bank)


class Reads(TorchDispatchMode):
    """Refuses what would wait for a GPU: values that the host reads, and shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "item"), name
        if name == "index":
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "boolean index"
        return func(*args, **(kwargs or {}))


def test_an_update_without_checks_reads_no_values():
    features, labels = random_features(2, 30, 4, dtype=torch.float32), random_labels(2, 30, num_classes=3)
    bank = AnchorBank(3, 4, capacity_per_class=5, decay=0.9, quota_per_image=4, validate_args=False)
    with Reads():
        bank.update(features, labels)
        bank.update(features, labels + 1)  # label 3 is none
    assert bank.counts.tolist() == [5, 5, 5]
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Reads():
        AnchorBank(3, 4).update(features, labels)


def test_ignored_and_nan_nodes_are_not_kept():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], [-1.0, 0.0]])
    bank = AnchorBank(2, 2)
    bank.update(features, torch.tensor([0, 255, 0, 1, 1]))
    assert held(bank) == [[(1.0, 0.0)], [(-1.0, 0.0)]]


@pytest.mark.parametrize("labels", [torch.full((2, 6), 255), torch.zeros(2, 0).long(), torch.zeros(0, 6).long()])
def test_a_batch_without_labels_changes_nothing(labels):
    bank = AnchorBank(2, 2)
    bank.update(torch.ones(2, 2), torch.tensor([0, 1]))
    before = held(bank)
    bank.update(torch.zeros(*labels.shape, 2), labels)
    assert held(bank) == before


def test_full_size_labels_meet_smaller_features_by_majority():
    maps = random_features(1, 2, 1, 2)
    bank = AnchorBank(3, 2).double()
    bank.update(maps, torch.tensor([[[2, 2, 0, 1], [2, 0, 1, 0]]]))
    assert bank.counts.tolist() == [0, 0, 1]  # the right half is a tie
    torch.testing.assert_close(bank.features[2, 0], maps[0, :, 0, 0] / maps[0, :, 0, 0].norm())


def test_a_quota_holds_for_any_number_of_images_and_classes():
    """Numbered one by one, 9,000 images of a thousand classes are more than 2**23 groups."""
    bank = AnchorBank(1000, 2, capacity_per_class=40, quota_per_image=1, ignore_index=-1)
    classes = torch.arange(9000) % 1000
    bank.update(torch.randn(9000, 4, 2), classes[:, None].expand(9000, 4))
    assert (bank.counts == 9).all()
