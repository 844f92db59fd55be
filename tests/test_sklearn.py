"""scikit-learn's own checks of an estimator, and what the estimator is for: a table with wrong labels."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.datasets import load_digits
from sklearn.semi_supervised import LabelSpreading
from sklearn.utils.estimator_checks import parametrize_with_checks

from graphcorrect import DualGraphRefiner
from graphcorrect.sklearn import LabelCorrector


# of checks that want pandas or scipy's array API
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([LabelCorrector(), LabelCorrector(n_neighbors=5, n_rounds=1, confidence=0.6)])
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def digits(seed, noise=0.4):
    """Pixels (1797, 64), true labels, and labels of which a share names another class."""
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    other = (labels + rng.integers(1, 10, len(labels))) % 10
    return pixels, labels, np.where(rng.random(len(labels)) < noise, other, labels)


def spread(pixels, labels):
    """LabelSpreading's labels at the best of four values of alpha, by the truth."""
    truth = load_digits(return_X_y=True)[1]
    found = (
        LabelSpreading("knn", n_neighbors=20, alpha=alpha, max_iter=2000).fit(pixels, labels).transduction_
        for alpha in (0.2, 0.8, 0.9, 0.95)
    )
    return max(np.mean(labels == truth) for labels in found)


@pytest.mark.parametrize("seed", range(3))
def test_more_wrong_labels_are_mended_than_by_label_spreading_at_its_best(seed):
    pixels, labels, noisy = digits(seed)
    ours = np.mean(LabelCorrector(n_neighbors=20).fit_predict(pixels, noisy) == labels)
    theirs = spread(pixels, noisy)
    assert theirs > 0.9
    assert ours > theirs + 0.01


def test_what_it_does_is_what_the_refiner_does():
    pixels, _, noisy = digits(0)
    corrector = LabelCorrector(confidence=0.91).fit(pixels, noisy)
    believed = torch.full((len(noisy), 10), 0.01, dtype=torch.float64).scatter(1, torch.tensor(noisy)[:, None], 0.91)
    refined = DualGraphRefiner(10, 64)(torch.tensor(pixels), believed.log())
    np.testing.assert_allclose(corrector.label_distributions_, refined.soft_labels.detach().numpy(), rtol=1e-9)
    np.testing.assert_array_equal(corrector.transduction_, refined.pseudo_labels.numpy())


def test_new_rows_are_labeled_by_the_corrected_ones():
    pixels, labels, noisy = digits(0)
    corrector = LabelCorrector().fit(pixels[:1200], noisy[:1200])
    assert np.mean(corrector.predict(pixels[1200:]) == labels[1200:]) > 0.9
    chances = corrector.predict_proba(pixels[1200:])
    np.testing.assert_allclose(chances.sum(1), 1)
    # by hand: cosines to all rows, the 20 largest, their weighted mean
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    cosine = unit[1200:] @ unit[:1200].T
    nearest = np.argsort(-cosine, axis=1)[:, :20]
    weight = np.take_along_axis(cosine, nearest, axis=1)[..., None]
    expected = (weight * corrector.label_distributions_[nearest]).sum(1) / weight.sum(1)
    np.testing.assert_allclose(chances, expected, rtol=1e-9)


def test_a_row_unlike_all_others_gets_the_mean_of_their_labels():
    corrector = LabelCorrector(n_neighbors=2).fit([[1.0, 0.0], [2.0, 0.1], [0.1, 1.0], [0.0, 3.0]], list("aabb"))
    np.testing.assert_allclose(
        corrector.predict_proba([[-1.0, -1.0]])[0], corrector.label_distributions_.mean(0), rtol=1e-12
    )


def test_rows_without_a_label_get_one_and_their_value_is_no_class():
    pixels, labels, noisy = digits(0)
    known = np.arange(len(labels)) % 3 == 0
    corrector = LabelCorrector(missing_label=-1).fit(pixels, np.where(known, noisy, -1))
    assert list(corrector.classes_) == list(range(10))
    assert np.mean(corrector.transduction_[~known] == labels[~known]) > 0.9
    assert np.mean(corrector.transduction_[known] == labels[known]) > 0.9


def test_names_can_be_missing_too():
    features = np.repeat(np.eye(2), 6, axis=0)
    names = np.array(["cat"] * 5 + ["?"] + ["dog"] * 5 + ["?"])
    corrector = LabelCorrector(n_neighbors=4, missing_label="?").fit(features, names)
    assert list(corrector.transduction_) == ["cat"] * 6 + ["dog"] * 6


def test_fitting_leaves_torchs_random_stream_alone():
    state = torch.get_rng_state()
    LabelCorrector().fit(np.eye(4), [0, 0, 1, 1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"n_rounds": 0}, "n_rounds"),
        ({"confidence": 1.0}, "confidence"),
        ({"missing_label": 7}, "missing_label"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LabelCorrector(**settings).fit(np.eye(3), [7, 7, 7])


@pytest.mark.parametrize(("classes", "least"), [(2, 0.5), (3, 1 / 3), (4, 0.25)])
def test_a_confidence_that_would_turn_labels_around_is_refused(classes, least):
    features, labels = np.repeat(np.eye(classes), 6, axis=0), np.repeat(np.arange(classes), 6)
    for confidence in (least, 0.9 * least):
        with pytest.raises(ValueError, match=rf"`confidence` above 1/{classes} = 0\.\d+ for {classes} classes, got"):
            LabelCorrector(n_neighbors=3, confidence=confidence).fit(features, labels)
    found = LabelCorrector(n_neighbors=3, confidence=1.2 * least).fit(features, labels).transduction_
    np.testing.assert_array_equal(found, labels)
    assert set(LabelCorrector(n_neighbors=3, confidence=0.1).fit(features, 0 * labels).transduction_) == {0}


@pytest.mark.parametrize(("labeled", "noise", "is_ours_better"), [(0.3, 0.4, True), (0.1, 0.0, False)])
def test_who_is_better_where_most_rows_have_no_label(labeled, noise, is_ours_better):
    # what docs/integrations/sklearn.md and docs/comparison.md say
    pixels, truth, noisy = digits(0, noise)
    known = np.where(np.random.default_rng(1).random(len(truth)) < labeled, noisy, -1)
    ours = np.mean(LabelCorrector(missing_label=-1).fit_predict(pixels, known) == truth)
    theirs = spread(pixels, known)
    print(f"{ours:.3f} {theirs:.3f}")
    assert (ours > theirs + 0.02) if is_ours_better else (ours < theirs - 0.02)


def test_grids_of_numpy_numbers_are_searched():
    from sklearn.model_selection import GridSearchCV

    X, y = load_digits(n_class=3, return_X_y=True)
    grid = {"n_neighbors": np.arange(3, 9, 3), "confidence": np.float32([0.8, 0.9])}
    found = GridSearchCV(LabelCorrector(), grid, cv=2).fit(X[:90], y[:90])
    assert found.best_score_ > 0.9


def test_what_becomes_of_the_rows_after_the_fit_is_no_matter():
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X[:90].astype(np.float64)
    corrector = LabelCorrector().fit(X, y[:90])
    before = corrector.predict_proba(X[:5])
    queries = X[:5].copy()
    X[:] = 1.0
    np.testing.assert_array_equal(corrector.predict_proba(queries), before)
