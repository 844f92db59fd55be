"""Labels: the ignored one never counts, classes keep their ids, cells take the majority."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_labels

import graphcorrect
from graphcorrect import AnchorBank, PrototypeBank, labels


def test_the_ignored_label_is_255():
    assert labels.IGNORE_INDEX == 255


def test_one_hot_gives_an_ignored_label_a_row_of_zeros():
    rows = labels.one_hot(torch.tensor([[2, 255], [0, 1]]), 3)
    expected = torch.tensor([[[0.0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(rows, expected)


def test_one_hot_can_ignore_any_label():
    rows = labels.one_hot(torch.tensor([-100, 1]), 2, ignore_index=-100)
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_one_hot_can_ignore_a_class_id():
    rows = labels.one_hot(torch.tensor([0, 1]), 2, ignore_index=0)
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("bad", [[0, 3], [-1, 1], [0, 254]])
def test_a_label_outside_the_classes_is_named(bad):
    offending = [value for value in bad if not 0 <= value < 3]
    with pytest.raises(ValueError, match=rf"`labels`.*values {offending[0]}$"):
        labels.one_hot(torch.tensor(bad), 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16])
def test_one_hot_rows_are_the_same_in_every_dtype(dtype):
    """Of which torch wraps what it compares: to 8 bits 300 is 44, and -100 is 156."""
    given = torch.tensor([0, 44, 100])
    expected = torch.eye(300)[given]
    assert torch.equal(labels.one_hot(given.to(dtype), 300, ignore_index=-100), expected)


@pytest.mark.filterwarnings("ignore:expected `ignore_index` that is no class")
@pytest.mark.parametrize("num_classes", [200, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16])
def test_labels_are_pooled_alike_in_every_dtype(dtype, num_classes):
    image = torch.tensor([[[0, 0, 100, 100], [44, 0, 100, 254]]])
    pooled = labels.pool_labels(image.to(dtype), (1, 2), num_classes)
    assert pooled.dtype == dtype
    assert pooled.tolist() == [[[0, 100]]]


@pytest.mark.parametrize(
    ("dtype", "ignore_index"), [(torch.uint8, -100), (torch.uint8, 256), (torch.int8, 255), (torch.uint16, -1)]
)
def test_void_that_the_dtype_cannot_hold_is_refused_rather_than_made_a_class(dtype, ignore_index):
    image = torch.tensor([[[0, 1], [1, 0]]])  # a tie
    with pytest.raises(ValueError, match=rf"`labels` of a dtype that holds ignore_index={ignore_index}, got {dtype}"):
        labels.pool_labels(image.to(dtype), (1, 1), 2, ignore_index=ignore_index)
    assert labels.pool_labels(image, (1, 1), 2, ignore_index=ignore_index).tolist() == [[[ignore_index]]]


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16])
def test_labels_of_nodes_are_int64_of_any_dtype(dtype, validate_args):
    given = torch.tensor([[[0, 0, 100, 100], [44, 0, 44, 100]]], dtype=dtype)
    found = labels.labels_of_nodes(torch.zeros(1, 8, 1, 2), given, 300, ignore_index=-100, validate_args=validate_args)
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 100]]


def test_resizing_takes_the_nearest_pixel_and_invents_no_label():
    image = torch.tensor([[[0, 0, 7, 7], [0, 0, 7, 7], [255, 255, 3, 3]]])
    assert labels.resize_labels(image, (3, 2)).tolist() == [[[0, 7], [0, 7], [255, 3]]]
    assert labels.resize_labels(image, (6, 4)).tolist() == image.repeat_interleave(2, 1).tolist()


def test_a_resized_constant_region_keeps_its_place_when_height_is_not_width():
    image = torch.zeros(1, 4, 10, dtype=torch.int64)
    image[:, :2, :5] = 1
    small = labels.resize_labels(image, (2, 4))
    assert small.tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0]]]


CELLS = {
    "a majority wins": ([2, 2, 1, 2], 2),
    "a plurality wins": ([2, 2, 1, 0], 2),
    "a tie is ignored": ([1, 1, 2, 2], 255),
    "a tie behind the winner does not matter": ([0, 1, 2, 2], 2),
    "mostly void is ignored": ([255, 255, 255, 1], 255),
    "void and a class in equal parts is ignored": ([255, 255, 1, 1], 255),
    "a little void does not matter": ([255, 1, 1, 1], 1),
    "all void": ([255, 255, 255, 255], 255),
    "four ways is ignored": ([0, 1, 2, 255], 255),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_takes_the_label_of_most_of_its_pixels(name):
    pixels, expected = CELLS[name]
    for order in (pixels, pixels[::-1]):
        image = torch.tensor(order).reshape(1, 2, 2)
        assert labels.pool_labels(image, (1, 1), 3).tolist() == [[[expected]]]


@given(st.integers(0, 1000))
def test_pooled_labels_are_the_vote_of_each_cell(seed):
    image = random_labels(2, 6, 8, num_classes=3, seed=seed, ignored=0.3)
    pooled = labels.pool_labels(image, (3, 2), 3)
    for b in range(2):
        for h in range(3):
            for w in range(2):
                cell = image[b, 2 * h : 2 * h + 2, 4 * w : 4 * w + 4].flatten().tolist()
                counts = sorted(((cell.count(c), c) for c in (0, 1, 2, 255)), reverse=True)
                expected = counts[0][1] if counts[0][0] > counts[1][0] else 255
                assert pooled[b, h, w] == expected


@pytest.mark.parametrize("size", [(0, 4), 4, (4,), (2.0, 2)])
def test_a_size_of_no_image_is_refused(size):
    with pytest.raises(ValueError, match="`size`.*height, width"):
        labels.pool_labels(torch.zeros(1, 8, 8, dtype=torch.int64), size, 3)


def test_labels_of_no_class_are_void_at_the_same_size_too():
    image = torch.tensor([[[7, 7], [1, -3]]])
    pooled = labels.pool_labels(image, (2, 2), 4)
    assert pooled.tolist() == [[[255, 255], [1, 255]]]
    pooled.fill_(0)
    assert image.tolist() == [[[7, 7], [1, -3]]]


@pytest.mark.parametrize("make", [lambda: AnchorBank(300, 4), lambda: PrototypeBank(300, 4)])
def test_a_class_that_the_default_leaves_out_is_told_of(make):
    with pytest.warns(UserWarning, match="class 255 is left out; ignore_index=-1 leaves none out"):
        make()
    probabilities, given = torch.full((2, 300), 1 / 300), torch.tensor([255, 3])
    with pytest.warns(UserWarning, match="class 255 is left out"):
        graphcorrect.clg_loss(probabilities, given)
    with pytest.warns(UserWarning, match="class 255 is left out"):
        graphcorrect.metrics.confusion_matrix(given, given, 300)
    assert graphcorrect.metrics.confusion_matrix(given, given, 300, ignore_index=-1).sum() == 2


@pytest.mark.parametrize("given", [None, "none", 2.0, True])
def test_an_ignored_label_that_is_no_number_is_named(given):
    two = torch.tensor([0, 1])
    calls = {
        "bank": lambda: AnchorBank(3, 4, ignore_index=given),
        "prototypes": lambda: PrototypeBank(3, 4, ignore_index=given),
        "loss": lambda: graphcorrect.clg_loss(torch.full((2, 2), 0.5), two, ignore_index=given),
        "pair loss": lambda: graphcorrect.slg_loss(torch.randn(2, 4), two, num_classes=2, ignore_index=given),
        "confusion": lambda: graphcorrect.metrics.confusion_matrix(two, two, 2, ignore_index=given),
        "counts": lambda: graphcorrect.metrics.correction_counts(two, two, two, ignore_index=given),
        "pooled": lambda: labels.pool_labels(two.view(1, 1, 2), (1, 1), 2, ignore_index=given),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match="expected `ignore_index` to be an int"):
            pytest.fail(f"{name}: {call()}")


FEATURES, LOGITS, LABELS = torch.randn(2, 4, 9, 17), torch.randn(2, 3, 9, 17), torch.randint(3, (2, 9, 17))
ACROSS = LABELS.mT


@pytest.mark.parametrize(
    "call",
    [
        lambda: graphcorrect.DualGraphRefiner(3, 4)(FEATURES, LOGITS.mT),
        lambda: graphcorrect.PrototypeBank(3, 4).update(FEATURES, ACROSS),
        lambda: graphcorrect.AnchorBank(3, 4).update(FEATURES, ACROSS),
        lambda: graphcorrect.slg_loss(FEATURES, ACROSS),
        lambda: graphcorrect.clg_loss(LOGITS.softmax(1), ACROSS),
        lambda: graphcorrect.LabelCorrectionLoss()(graphcorrect.DualGraphRefiner(3, 4)(FEATURES, LOGITS), ACROSS),
        lambda: graphcorrect.guided_upsample(LOGITS.mT.softmax(1), torch.rand(2, 3, 36, 68)),
    ],
    ids=["refiner", "prototypes", "anchors", "slg", "clg", "loss", "guided"],
)
def test_maps_that_lie_across_the_others_are_refused_and_not_resized(call):
    with pytest.raises(ValueError, match="proportions of .* got them transposed"):
        call()


@pytest.mark.parametrize("sides", [(9, 17), (36, 68), (33, 65), (500, 333), (97, 100), (8, 8), (1, 40)])
@pytest.mark.parametrize("stride", [1, 4, 16, 32])
def test_labels_of_any_resolution_meet_features_of_the_same_images(sides, stride):
    for size in ([-(-side // stride) for side in sides], [max(1, side // stride) for side in sides]):
        given_labels = torch.zeros(1, *sides, dtype=torch.int64)
        assert labels.labels_of_nodes(torch.zeros(1, 2, *size), given_labels, num_classes=3).shape == (
            1,
            size[0] * size[1],
        )
