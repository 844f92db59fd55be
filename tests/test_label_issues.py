"""Wrong annotations: what is found, corrected and left alone, what may be passed, and what is refused."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphcorrect import label_issues


def scene(count=4, size=(24, 30), classes=3, confidence=0.9, seed=0):
    """Blocks of classes in colors and features of their own, and a model that sees them: labels, probabilities, ..."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(classes, (count, size[0] // 6, size[1] // 6), generator=generator)
    labels = coarse.repeat_interleave(6, 1).repeat_interleave(6, 2)
    hot = F.one_hot(labels, classes).movedim(-1, 1).float()
    probabilities = hot * confidence + (1 - hot) * (1 - confidence) / (classes - 1)
    features = torch.einsum("nchw,cd->ndhw", hot, torch.randn(classes, 8, generator=generator))
    return labels.to(torch.uint8), probabilities, hot.clone(), features


def softmin(scores, temperature=0.1):
    scores = np.asarray(scores, dtype=np.float64).ravel()
    weight = np.exp((1 - scores) / temperature)
    return float((weight * scores).sum() / weight.sum())


def test_right_labels_have_no_issues():
    labels, probabilities, images, features = scene()
    found = label_issues(labels, probabilities, images, features=features)
    assert not found.issues.any()
    assert torch.equal(found.corrected, labels)
    assert float(found.pixel_scores.min()) > 0.9


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("with_features", [False, True])
def test_a_region_of_the_wrong_class_is_found_and_corrected(with_images, with_features):
    labels, probabilities, images, features = scene(confidence=0.99)
    given = labels.clone()
    given[2, 6:12, 6:12] = (labels[2, 6, 6] + 1) % 3
    found = label_issues(
        given, probabilities, images if with_images else None, features=features if with_features else None
    )
    assert torch.equal(found.issues, given != labels)
    assert torch.equal(found.corrected, labels)
    assert int(found.image_scores.argmin()) == 2
    wrong, right = found.pixel_scores[given != labels], found.pixel_scores[given == labels]
    assert float(wrong.max()) < 0.5 < float(right.min())


def test_other_images_decide_where_the_model_does_not_know():
    labels, _, images, features = scene(count=6)
    given = labels.clone()
    given[3, :6, :6] = (labels[3, 0, 0] + 1) % 3
    unsure = torch.full((6, 3, 24, 30), 1 / 3)
    alone = label_issues(given, unsure, images)
    helped = label_issues(given, unsure, images, features=features, error_rate=0.3, caution=1)
    assert not alone.issues.any()
    assert torch.equal(helped.corrected, labels)


def test_no_image_confirms_its_own_mistakes():
    """The pixel's own wrong label is not among the anchors that judge it, however alike they are."""
    labels, _, images, features = scene(count=2)
    given = labels.clone()
    given[1] = (given[1] + 1) % 3  # all of an image; the other is right
    found = label_issues(given, torch.full((2, 3, 24, 30), 1 / 3), images, features=features, error_rate=0.4, caution=1)
    assert torch.equal(found.corrected[1], labels[1])


def test_scores_are_the_posterior_of_the_given_label():
    """By hand, far from every edge: what is around agrees, so that only its floor counts."""
    labels = torch.zeros(1, 9, 9, dtype=torch.int64)
    probabilities = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1).repeat(1, 1, 9, 9)
    found = label_issues(labels, probabilities, error_rate=0.2)
    opinions = (torch.tensor([0.2, 0.7, 0.1]) + 1e-3) * torch.tensor([1.02, 0.02, 0.02]) ** 0.03
    opinions[0] *= torch.tensor(0.8).exp() * 4
    expected = opinions / opinions.sum()
    item = next(iter(found))
    assert torch.allclose(item.pixel_scores, expected[0].expand(9, 9), atol=1e-6)
    assert item.image_score == pytest.approx(float(expected[0]), abs=1e-6)


def test_image_scores_are_cleanlabs_softmin_of_pixel_scores():
    labels, probabilities, images, _ = scene(seed=3)
    labels[1, 3:9, 3:9] = (labels[1, 3:9, 3:9] + 1) % 3
    labels[0, 0] = 255
    for item, given in zip(label_issues(labels, probabilities, images, temperature=0.2), labels, strict=True):
        assert item.image_score == pytest.approx(softmin(item.pixel_scores[given != 255], 0.2), abs=1e-5)


@pytest.mark.parametrize("ignore_index", [255, 1])
def test_ignored_pixels_are_no_issue_and_change_nothing(ignore_index):
    labels, probabilities, images, features = scene()
    labels[labels == 1] = 0 if ignore_index == 1 else 1
    void = torch.zeros_like(labels, dtype=torch.bool)
    void[:, :, ::5] = True
    given = labels.masked_fill(void, ignore_index)
    found = label_issues(given, probabilities, images, features=features, ignore_index=ignore_index)
    assert not found.issues[void].any()
    assert (found.corrected[void] == ignore_index).all()
    assert (found.pixel_scores[void] == 1).all()
    for image in range(len(labels)):
        counted = found.pixel_scores[image][~void[image]]
        assert float(found.image_scores[image]) == pytest.approx(softmin(counted), abs=2e-3)  # of float16


def test_an_image_of_ignored_pixels_alone_has_nothing_wrong():
    labels, probabilities, images, features = scene()
    labels[1] = 255
    found = label_issues(labels, probabilities, images, features=features)
    assert float(found.image_scores[1]) == 1
    assert not found.issues[1].any()
    nothing = label_issues(labels[1:2], probabilities[1:2], images[1:2], features=features[1:2])
    assert torch.equal(nothing.corrected, labels[1:2])


def test_renamed_classes_give_renamed_corrections():
    labels, probabilities, images, features = scene(confidence=0.95)
    labels[0, 3:9, 3:9] = 2
    order = torch.tensor([2, 0, 1])  # class c is called order[c]
    plain = label_issues(labels, probabilities, images, features=features)
    renamed = label_issues(order[labels.long()], probabilities[:, order.argsort()], images, features=features)
    assert torch.equal(order[plain.corrected.long()], renamed.corrected)
    assert torch.allclose(plain.pixel_scores.float(), renamed.pixel_scores.float(), atol=2e-3)


@pytest.mark.filterwarnings("ignore:expected `ignore_index` that is no class")
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_corrections_that_the_dtype_of_the_labels_cannot_hold_are_refused(kind):
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    probabilities = torch.full((1, 300, 8, 8), 1e-6)
    probabilities[:, 280] = 1 - 299e-6
    given = labels if kind == "tensors" else labels.numpy()
    message = re.escape("expected `labels (image 0)` of a dtype that holds class 299, got torch.uint8; use int64")
    with pytest.raises(ValueError, match=message):
        _ = label_issues(given, probabilities).corrected
    for wide in (torch.int64, torch.uint16):
        wide_labels = labels.to(wide)
        found = label_issues(wide_labels if kind == "tensors" else wide_labels.numpy(), probabilities)
        assert (np.asarray(found.corrected) == 280).all()
        assert str(found.corrected.dtype).removeprefix("torch.") == str(wide).removeprefix("torch.")
    same = label_issues(given, probabilities[:, 25:281])  # 256 classes are what 8 bits hold
    assert (np.asarray(same.corrected) == 255).all()


def test_more_errors_expected_give_more_issues():
    labels, _, images, _ = scene()
    sure = torch.linspace(0, 1, 30)  # the model is, from left to right
    probabilities = sure * images + (1 - sure) / 3
    given, rates = torch.roll(labels, 2, -1), (0.02, 0.2, 0.6)
    counts = [int(label_issues(given, probabilities, images, error_rate=rate).issues.sum()) for rate in rates]
    assert counts[0] < counts[1] < counts[2]


def test_numpy_and_tensors_give_the_same_each_in_its_own_kind():
    labels, probabilities, images, features = scene()
    labels[0, 3:9, 3:9] = 1
    tensors = label_issues(labels, probabilities, images, features=features)
    arrays = label_issues(labels.numpy(), probabilities.numpy(), images.numpy(), features=features.numpy())
    for name in ("issues", "pixel_scores", "image_scores", "corrected"):
        one, other = getattr(tensors, name), getattr(arrays, name)
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, np.ndarray)
        assert np.array_equal(one.numpy(), other)
    assert arrays.issues.dtype == np.bool_
    assert arrays.pixel_scores.dtype == np.float16


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_corrected_labels_keep_their_dtype(dtype):
    labels, probabilities, _, _ = scene()
    assert label_issues(labels.numpy().astype(dtype), probabilities).corrected.dtype == dtype


def test_half_precision_probabilities_are_widened():
    labels, probabilities, images, _ = scene()
    plain, half = (label_issues(labels, p, images).pixel_scores for p in (probabilities, probabilities.half()))
    assert torch.allclose(plain, half, atol=2e-3)


def test_uint8_images_are_those_between_0_and_1():
    labels, probabilities, images, _ = scene()
    one = label_issues(labels, probabilities, images).pixel_scores
    assert torch.equal(one, label_issues(labels, probabilities, (images * 255).to(torch.uint8)).pixel_scores)


def forms(tensor):
    yield "array", tensor
    yield "list", list(tensor)
    yield "batches", [tensor[:3], tensor[3:]]
    yield "function", lambda: iter(tensor)
    yield "loader", torch.utils.data.DataLoader(tensor, batch_size=2)


@pytest.mark.parametrize("number", range(5))
def test_every_form_of_many_images_gives_the_same(number):
    data = scene()
    data[0][0, 3:9, 3:9] = 1
    whole = label_issues(*data[:3], features=data[3])
    *parts, features = ([*forms(each)][number][1] for each in data)
    found = label_issues(*parts, features=features)
    assert np.array_equal(found.issues, whole.issues)
    assert np.array_equal(found.pixel_scores, whole.pixel_scores)


def test_more_caution_changes_fewer_of_the_same_issues():
    labels, _, images, _ = scene()
    sure = torch.linspace(0, 1, 30)
    given, counts = torch.roll(labels, 2, -1), []
    for caution in (1.0, 3.0, 9.0):
        found = label_issues(given, sure * images + (1 - sure) / 3, images, error_rate=0.6, caution=caution)
        changed = found.corrected != given
        assert not (changed & ~found.issues).any()
        counts.append((int(changed.sum()), int(found.issues.sum())))
    assert counts[0][0] == counts[0][1] == counts[1][1] == counts[2][1]
    assert counts[0][0] > counts[1][0] > counts[2][0] > 0


def test_an_iterator_is_read_once_and_refused_for_two_readings():
    labels, probabilities, images, features = scene()
    found = label_issues(iter(labels), (each for each in probabilities))
    assert len(list(found)) == 4
    with pytest.raises(RuntimeError, match=r"expected `labels` that can be read again, got an iterator"):
        next(iter(found))
    with pytest.raises(TypeError, match=r"expected `probabilities` that can be read twice.*a function that returns"):
        label_issues(labels, iter(probabilities), images, features=features)


def test_nothing_is_read_before_it_is_asked_for_and_only_an_image_ahead():
    labels, probabilities, images, _ = scene()
    read = []

    def reading():
        for place, each in enumerate(probabilities):
            read.append(place)
            yield each

    found = iter(label_issues(labels, reading, images))
    assert read == []
    next(found)
    assert read == [0]


def test_images_of_different_sizes_pass_one_by_one_and_not_as_one_array():
    first, second = scene(count=1), scene(count=1, size=(18, 24))
    pairs = [[a[0], b[0]] for a, b in zip(first, second, strict=True)]
    found = label_issues(*pairs[:3], features=pairs[3])
    assert [tuple(item.issues.shape) for item in found] == [(24, 30), (18, 24)]
    with pytest.raises(ValueError, match=r"expected images of one size.*\(18, 24\) \(image 1\); iterate"):
        found.issues  # noqa: B018


def test_inputs_are_left_as_they_were():
    data = scene()
    copies = [each.clone() for each in data]
    label_issues(*data[:3], features=data[3]).corrected  # noqa: B018
    assert all(torch.equal(one, other) for one, other in zip(data, copies, strict=True))
    frozen = data[0].numpy().copy()
    frozen.flags.writeable = False
    assert np.array_equal(label_issues(frozen, data[1]).corrected, frozen)


def changed(place, value):
    def change(data):
        data[place] = value(data[place])

    return change


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor[(2, *[0] * (tensor.ndim - 1))] = value
    return tensor


REFUSED = {
    "a label outside": (changed(0, lambda t: with_value(t, 3)), r"`labels \(image 2\)` in \[0, 3\).*got the values 3"),
    "real labels": (changed(0, lambda t: t.float()), r"`labels \(image 0\)` to hold integer"),
    "one mask": (changed(0, lambda t: t[0]), r"`labels \(image 0\)` of shape \(H, W\), got \(30,\)"),
    "fewer masks": (changed(0, lambda t: t[:3]), r"`labels` of as many images as `probabilities`, got 3 and more"),
    "fewer images": (changed(2, lambda t: t[:1]), r"`images` of as many images as `labels`, got 1"),
    "logits": (changed(1, lambda t: t.log()), r"`probabilities \(image 0\)`, at least 0 and with the sum 1.*softmax"),
    "percentages": (changed(1, lambda t: t * 100), r"with the sum 1"),
    "NaN": (changed(1, lambda t: with_value(t, float("nan"))), r"`probabilities \(image 2\)` to be finite"),
    "integer probabilities": (changed(1, lambda t: t.long()), r"`probabilities \(image 0\)` to be floating point"),
    "larger probabilities": (changed(1, lambda t: t.repeat(1, 1, 2, 2)), r"no larger than its labels, \(24, 30\)"),
    "images as files have them": (
        changed(2, lambda t: t.movedim(1, -1)),
        r"shape .*use .movedim",
    ),
    "smaller images": (changed(2, lambda t: t[..., :20]), r"`images \(image 0\)` of the size of its labels"),
    "images up to 255": (changed(2, lambda t: t * 255), r"`images \(image 0\)` in \[0, 1\], got .* 0 to 255; divide"),
    "NaN features": (changed(3, lambda t: with_value(t, float("nan"))), r"`features \(image 2\)` to be finite"),
    "other widths": (changed(3, lambda t: [*t[:3], t[3, :5]]), r"`features \(image 3\)` with 8 entries, as the first"),
    "other classes": (changed(1, lambda t: [*t[:3], F.pad(t[3], (0, 0, 0, 0, 0, 1))]), r"\(image 3\)` with 3 classes"),
    "a number": (changed(0, lambda t: 3), r"`labels` to be an array of all images, an iterable, or a function"),
    "nothing": (changed(1, lambda t: None), r"`probabilities` to be an array of all images.*got NoneType"),
    "a path": (changed(2, lambda t: "images/"), r"`images` to be an array of all images.*got str"),
    "no images": (lambda data: data.__setitem__(slice(None), [each[:0] for each in data]), r"of at least one image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case):
    change, message = REFUSED[case]
    data = list(scene())
    change(data)
    with pytest.raises((TypeError, ValueError), match=re.compile(message, re.DOTALL)):
        label_issues(*data[:3], features=data[3]).issues  # noqa: B018


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("error_rate", 0),
        ("error_rate", 1.0),
        ("caution", 0.5),
        ("temperature", 0.0),
        ("capacity_per_class", 0),
        ("quota_per_image", 2.5),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    labels, probabilities, _, _ = scene()
    with pytest.raises((TypeError, ValueError), match=f"`{setting}`"):
        label_issues(labels, probabilities, **{setting: value})


def test_a_class_that_is_ignored_is_no_opinion_of_the_pixels_around():
    labels, probabilities, _, _ = scene()
    found = [label_issues(labels.masked_fill(labels == 1, n), probabilities, ignore_index=n) for n in (255, 1)]
    assert torch.equal(found[0].pixel_scores, found[1].pixel_scores)


def test_scores_are_float32_whatever_the_probabilities():
    (found,) = label_issues(torch.zeros(1, 4, 4).long(), torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64))
    assert found.pixel_scores.dtype == torch.float32


def test_a_class_that_the_ignored_label_leaves_out_is_told_of():
    probabilities = torch.full((1, 300, 4, 4), 1 / 300)
    with pytest.warns(UserWarning, match="class 255 is left out"):
        list(label_issues(torch.full((1, 4, 4), 255), probabilities))
