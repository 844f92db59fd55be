"""A bank's balance between classes, and the settings that labeled images choose for it."""

import math

import pytest
import torch
from strategies import random_features

from graphcorrect import AnchorBank, Calibration, calibrate, metrics
from graphcorrect.banks._choice import Settings, choose

NAMES = ("strength", "eps", "balance", "temperature")


def frequent_and_rare(**settings):
    """A bank of 90 nodes of class 0 and 10 of class 1, all alike."""
    bank = AnchorBank(3, 4, num_neighbors=200, **settings)
    bank.update(torch.ones(100, 4), torch.tensor([0] * 90 + [1] * 10))
    return bank


@pytest.mark.parametrize(("balance", "odds"), [(1.0, 1.0), (0.0, 9.0), (0.5, 3.0)])
def test_balance_puts_the_frequency_of_classes_back(balance, odds):
    bank = frequent_and_rare(balance=balance)
    posterior = bank(torch.ones(5, 4))
    torch.testing.assert_close(posterior[:, 0] / posterior[:, 1], torch.full((5,), odds))
    torch.testing.assert_close(posterior.sum(1), torch.ones(5))
    assert not posterior[:, 2].any()


def test_a_balance_of_none_is_as_even_as_the_classes_are():
    """Of shares 0.9, 0.1 and 0 the entropy is 0.325, that of three equal ones 1.099."""
    bank = frequent_and_rare(balance=None)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(3)
    posterior = bank(torch.ones(1, 4))
    torch.testing.assert_close(posterior[0, 0] / posterior[0, 1], torch.tensor(9.0 ** (1 - entropy)))
    even = AnchorBank(2, 4, num_neighbors=200, balance=None)
    even.update(torch.ones(100, 4), torch.tensor([0, 1] * 50))
    torch.testing.assert_close(even(torch.ones(1, 4)), torch.tensor([[0.5, 0.5]]))
    one = AnchorBank(1, 4, balance=None)
    one.update(torch.ones(3, 4), torch.zeros(3).long())
    assert one(torch.ones(1, 4)).item() == 1.0


@pytest.mark.parametrize("settings", [{"capacity_per_class": 5}, {"quota_per_image": 5}, {"decay": 0.5}])
def test_frequency_is_that_of_the_nodes_seen_and_not_of_those_kept(settings):
    bank = frequent_and_rare(balance=0.0, **settings)
    bank.update(torch.ones(100, 4), torch.tensor([0] * 90 + [255] * 10))
    assert bank.num_seen.tolist() == [180, 10, 0]
    posterior = bank(torch.ones(1, 4))
    torch.testing.assert_close(posterior[0, 0] / posterior[0, 1], torch.tensor(18.0))


def test_a_query_that_is_like_nothing_gets_the_prior():
    bank = frequent_and_rare(balance=0.0)
    far = bank.votes(torch.full((1, 4), torch.nan), [0.05])[0.05]
    assert far.isfinite().all()


def images(num_images=6, nodes=60, wrong=0.3, seed=0):
    """Keys, labels and probabilities of images: the network is often wrong, the keys tell classes apart."""
    draw = torch.Generator().manual_seed(seed)
    centers = random_features(3, 8, seed=5).float()
    labels = torch.randint(3, (num_images, nodes), generator=draw)
    keys = centers[labels] + 0.3 * torch.randn(num_images, nodes, 8, generator=draw)
    said = torch.where(torch.rand(labels.shape, generator=draw) < wrong, (labels + 1) % 3, labels)
    probabilities = torch.full((num_images, nodes, 3), 0.2).scatter(2, said[..., None], 0.6)
    return keys, labels, probabilities


def test_the_choice_is_what_correction_with_it_gives():
    keys, labels, probabilities = images()
    bank = AnchorBank(3, 8)
    bank.update(keys[:3], labels[:3])
    found = calibrate(bank, keys[3:], labels[3:], probabilities[3:])
    assert isinstance(found, Calibration)
    assert found.settings._asdict() == {name: getattr(bank, name) for name in NAMES}
    before = metrics.confusion_matrix(probabilities[3:].argmax(-1), labels[3:], 3)
    after = metrics.confusion_matrix(bank.correct(probabilities[3:], keys[3:]).argmax(-1), labels[3:], 3)
    assert found.before == pytest.approx(metrics.mean_iou(before))
    assert found.after == pytest.approx(metrics.mean_iou(after))
    change = metrics.per_class_iou(after) - metrics.per_class_iou(before)
    assert found.worst_class == pytest.approx(float(change.min()))
    assert found.after > found.before + 0.2


def test_no_setting_that_was_compared_is_better():
    keys, labels, probabilities = images(wrong=0.4)
    bank = AnchorBank(3, 8)
    bank.update(keys[:3], labels[:3])
    one_image = [each[3:].flatten(0, 1)[None] for each in (keys, labels, probabilities)]
    found = calibrate(bank, *one_image, max_class_loss=1.0)
    for strength in (0.5, 1.0, 2.0):
        for eps in (0.02, 0.1, 0.3):
            bank.strength, bank.eps = strength, eps
            after = metrics.confusion_matrix(bank.correct(probabilities[3:], keys[3:]).argmax(-1), labels[3:], 3)
            assert metrics.mean_iou(after) <= found.after + 1e-12


@pytest.mark.parametrize("folds", [2, 3, 6])
def test_images_of_the_bank_are_left_out_of_it(folds):
    """Every image has keys of its own: one that is in the bank would be right throughout, the others know nothing."""
    keys = torch.eye(60).reshape(6, 10, 60)
    labels = torch.arange(10).expand(6, 10) % 3
    probabilities = torch.full((6, 10, 3), 0.1).scatter(2, ((labels + 1) % 3)[..., None], 0.8)
    bank = AnchorBank(3, 60, num_neighbors=60)
    bank.update(keys, labels)
    cheated = calibrate(bank, keys, labels, probabilities)
    assert cheated.after > 0.9
    honest = calibrate(bank, keys, labels, probabilities, folds=folds)
    assert honest.before == honest.after == 0.0
    assert bank.strength == 0.0
    torch.testing.assert_close(bank.correct(probabilities, keys), probabilities)
    assert bank.counts.tolist() == [24, 18, 18]  # untouched


def test_a_network_that_is_always_right_is_left_alone():
    keys, labels, _ = images()
    right = torch.full((6, 60, 3), 0.3).scatter(2, labels[..., None], 0.4)
    bank = AnchorBank(3, 8)
    bank.update(keys, (labels + 1) % 3)  # all it says is wrong
    found = calibrate(bank, keys, labels, right)
    assert found.settings.strength == 0.0
    assert found.before == found.after == 1.0


def test_a_class_may_not_pay_for_another():
    keys = torch.tensor([[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50)
    labels = torch.tensor([0] * 50 + [1] * 50)
    said = torch.full((100, 2), 0.5)
    said[:20] += torch.tensor([0.3, -0.3])
    said[20:50] += torch.tensor([-0.1, 0.1])
    said[50:] += torch.tensor([-0.2, 0.2])
    bank = AnchorBank(2, 2)
    bank.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))  # of class 0 it knows all places
    bank.update(torch.tensor([[-1.0, 0.0]]), torch.tensor([1]))
    free = calibrate(bank, [keys], [labels], [said], max_class_loss=1.0)
    assert calibrate(bank, [keys], [labels], [said], max_class_loss=0.0).worst_class >= 0.0
    assert free.tried == 109


def test_maps_meet_keys_of_another_resolution():
    bank = AnchorBank(2, 3)
    bank.update(torch.eye(3), torch.tensor([0, 1, 1]))
    keys = torch.eye(3)[:, :2].reshape(3, 1, 2)
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    said = torch.tensor([0.4, 0.6]).reshape(2, 1, 1).expand(2, 4, 8)
    found = calibrate(bank, [keys], [labels], [said])
    assert (found.before, found.after) == (0.25, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": []}, "`keys` of one image at least"),
        ({"labels": [torch.zeros(4).long()]}, "`labels` of 2 images"),
        ({"probabilities": []}, "`probabilities` of 2 images"),
        ({"folds": 1}, "`folds`"),
        ({"folds": 3}, "`folds` of at most 2"),
        ({"labels": [torch.full((4,), 255)] * 2}, "a label that is not ignored"),
        ({"labels": [torch.full((4,), 7)] * 2}, "`labels`"),
        ({"labels": [torch.full((4,), 255), torch.zeros(4).long()], "folds": 2}, "not ignored in two of the `folds`"),
        ({"keys": [torch.ones(4, 5)] * 2}, "`keys` with 3 entries"),
        ({"probabilities": [torch.ones(4, 3)] * 2}, "`probabilities`"),
        ({"probabilities": [torch.ones(4, 2, device="meta")] * 2}, "`probabilities` on the device of `keys`, cpu"),
        ({"strengths": [-1.0]}, "`strengths`"),
        ({"eps": [2.0]}, "`eps`"),
        ({"eps": [0.0]}, "`eps`"),
        ({"balances": [1.5]}, "`balances`"),
        ({"temperatures": [0.0]}, "`temperatures`"),
        ({"strengths": []}, "`strengths` with at least one setting"),
        ({"max_class_loss": -0.1}, "`max_class_loss`"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    bank = AnchorBank(2, 3)
    bank.update(torch.eye(3), torch.tensor([0, 1, 1]))
    given = {
        "keys": [torch.ones(4, 3)] * 2,
        "labels": [torch.zeros(4).long()] * 2,
        "probabilities": [torch.full((4, 2), 0.5)] * 2,
    }
    with pytest.raises(ValueError, match=message):
        calibrate(bank, **given | change)


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_is_worse_than_what_was_in_place(seed):
    keys, labels, probabilities = images(num_images=7, seed=seed)
    bank = AnchorBank(3, 8, strength=1.2, balance=None)
    bank.update(keys[:3], labels[:3])
    found = calibrate(bank, keys[3:], labels[3:], probabilities[3:])
    assert found.after >= found.in_place > found.before


def counts(right):
    """Of two classes with 100 pixels each, as often predicted, so many right in each image: `right` is (images, 2)."""
    return torch.stack([torch.tensor(right), *[torch.full((len(right), 2), 100)] * 2], 1)


IN_PLACE, OTHER = Settings(0.3, 0.1, None, 0.05), Settings(1.0, 0.1, 1.0, 0.05)


@pytest.mark.parametrize(
    ("after", "is_better"),
    [
        ([[84, 84], [84, 84]], True),
        ([[95, 95], [72, 72]], False),  # as many more in both together, of which one has fewer
        ([[84, 84]], True),  # of a single image nobody knows better
    ],
)
def test_settings_in_place_stay_where_images_contradict_each_other(after, is_better):
    given = [counts([[each] * 2] * len(after)) for each in (60, 80)]
    found = choose([IN_PLACE, OTHER], torch.stack([*given, counts(after)], 1), 0.01)
    assert (found.settings == OTHER) == is_better
    assert (found.after > found.in_place) == is_better
    assert found.before < found.in_place == pytest.approx(80 / 120)


@pytest.mark.parametrize(
    ("after", "is_harmed"),
    [
        ([[90, 60]] * 4, False),
        ([[98, 58]] * 4, True),  # class 1 loses as much in every image
        ([[99, 60], [99, 60], [99, 60], [95, 52]], False),  # in one of four only, which may be chance
        ([[99, 60], [99, 60], [99, 52], [95, 52]], True),  # in two
    ],
)
def test_a_class_is_harmed_where_it_loses_more_than_its_images_differ(after, is_harmed):
    before = [[80, 60]] * 4
    found = choose([IN_PLACE, OTHER], torch.stack([counts(before), counts(before), counts(after)], 1), 0.01)
    assert (found.settings != OTHER) == is_harmed
