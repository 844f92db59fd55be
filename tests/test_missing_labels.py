"""Labels missing in every guise: the rows get a label, and nothing of what marked them becomes a class."""

import datetime

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", "1.6")
LabelCorrector = pytest.importorskip("graphcorrect.sklearn").LabelCorrector
missing = pytest.importorskip("graphcorrect._missing")

FEATURES = np.repeat(np.eye(2), 6, axis=0)
HOLES = np.arange(12) % 6 == 5


class NAType:
    """Like pandas.NA: equal to nothing, and no truth value."""

    def __eq__(self, other):
        return self

    __hash__ = object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self):
        return "<NA>"


NA = NAType()


def names(hole, dtype=object):
    labels = np.array(["cat"] * 6 + ["dog"] * 6, dtype=object)
    labels[HOLES] = hole
    return labels.astype(dtype)


def numbers(hole, dtype=float):
    labels = np.array([3] * 6 + [7] * 6, dtype=object)
    labels[HOLES] = hole
    return labels.astype(dtype)


@pytest.mark.parametrize(
    ("missing_label", "labels"),
    [
        (np.nan, names(np.nan)),
        (np.nan, names(None)),
        (np.nan, names(NA)),
        (NA, names(None)),
        (NA, names(float("nan"))),
        (np.nan, names(np.datetime64("NaT"))),
        (np.nan, list(names(np.nan))),
        (np.nan, names(np.nan, str)),  # "nan" by now
        (np.nan, np.ma.array(names("?"), mask=HOLES)),
        (-1, names(-1)),
        (-1, names("-1")),
        (-1, names(-1, str)),
        (-1, list(names(-1))),
        ("?", names("?", str)),
    ],
)
def test_rows_without_a_name_get_one(missing_label, labels):
    corrector = LabelCorrector(n_neighbors=4, missing_label=missing_label).fit(FEATURES, labels)
    assert list(corrector.classes_) == ["cat", "dog"]
    assert list(corrector.transduction_) == ["cat"] * 6 + ["dog"] * 6


@pytest.mark.parametrize(
    ("missing_label", "labels"),
    [
        (np.nan, numbers(np.nan)),
        (np.nan, numbers(None, object)),
        (np.nan, numbers(NA, object)),
        (np.nan, np.ma.array(numbers(0, int), mask=HOLES)),
        (np.nan, list(numbers(None, object))),
        (-1, numbers(-1, int)),
        (-1, numbers(-1.0)),
        (-1.0, numbers(-1, int)),
        ("-1", numbers(-1, int)),
        (255, torch.tensor(numbers(255, int).tolist())),
    ],
)
def test_rows_without_a_number_get_one(missing_label, labels):
    corrector = LabelCorrector(n_neighbors=4, missing_label=missing_label).fit(FEATURES, labels)
    assert list(corrector.classes_) == [3, 7]
    assert list(corrector.transduction_) == [3] * 6 + [7] * 6


@pytest.mark.filterwarnings("ignore:A column-vector y:sklearn.exceptions.DataConversionWarning")
def test_a_column_of_labels_has_holes_too():
    corrector = LabelCorrector(n_neighbors=4, missing_label=-1).fit(FEATURES, numbers(-1, int)[:, None])
    assert list(corrector.classes_) == [3, 7]


@pytest.mark.parametrize("hole", [np.nan, None, NA, np.datetime64("NaT")])
@pytest.mark.parametrize("missing_label", [None, -1, "?"])
def test_nothing_that_is_not_said_to_be_missing_is_refused(hole, missing_label):
    with pytest.raises(ValueError, match="missing_label=.* got 2 rows of NaN, None or the like"):
        LabelCorrector(missing_label=missing_label).fit(FEATURES, names(hole))


def test_masked_features_are_refused_and_not_read():
    features = np.ma.array(FEATURES, mask=False)
    LabelCorrector(n_neighbors=4).fit(features, names("cat"))
    features[3, 1] = np.ma.masked
    with pytest.raises(ValueError, match="`X` without missing values, got 1 masked"):
        LabelCorrector(n_neighbors=4).fit(features, names("cat"))
    corrector = LabelCorrector(n_neighbors=4).fit(FEATURES, names("cat"))
    with pytest.raises(ValueError, match="`X` without missing values, got 1 masked"):
        corrector.predict(features)


def test_tensors_are_taken_and_sparse_ones_refused_by_name():
    corrector = LabelCorrector(n_neighbors=4).fit(torch.tensor(FEATURES, requires_grad=True), names("cat"))
    assert len(corrector.predict(torch.tensor(FEATURES))) == 12
    with pytest.raises(TypeError, match="`X` to be dense"):
        LabelCorrector().fit(torch.tensor(FEATURES).to_sparse(), names("cat"))


@pytest.mark.parametrize("value", [0, "", "nan", False, -1, datetime.date(2024, 1, 1), [], np.float32(3)])
def test_what_is_something_is_not_nothing(value):
    assert not missing.is_nothing(value)


@pytest.mark.parametrize("missing_label", [None, -1, np.nan])
@pytest.mark.parametrize(
    "labels",
    [
        ["cat", 1] * 6,
        [1, "cat"] * 6,
        np.array(["0", 1.0] * 6, dtype=object),
        np.array([True, "yes"] * 6, dtype=object),
        [1, "1"] * 6,
    ],
)
def test_numbers_and_text_are_not_mixed(labels, missing_label):
    with pytest.raises(ValueError, match="`y` with labels of one kind.* got numbers such as .* and text such as"):
        LabelCorrector(n_neighbors=3).fit(FEATURES, labels)


@pytest.mark.parametrize("labels", [np.array([2, 1.5] * 6, dtype=object), np.array([1, True] * 6, dtype=object)])
def test_objects_that_are_all_numbers_are_numbers(labels):
    split, given = missing.split_labels(labels, None)
    assert split.dtype != object
    assert given.all()
