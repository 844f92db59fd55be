"""Results of label_issues on the disk: as in memory, whole or not at all, and safe where they are read back."""

import numpy as np
import pytest
import torch

from graphcorrect import label_issues

CERTAIN = torch.tensor([0.995, 0.005]).view(1, 2, 1, 1).repeat(3, 1, 8, 8)  # class 0


def labels_of(*each):
    """One image of each label, (N, 8, 8) uint8."""
    return np.stack([np.full((8, 8), value, dtype=np.uint8) for value in each])


def loaded(folder):
    return {path.name: np.load(path) for path in folder.iterdir()}


def test_saved_arrays_are_those_in_memory(tmp_path):
    found = label_issues(labels_of(0, 1, 255), CERTAIN)
    paths = found.save(tmp_path)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    for path in paths:
        assert np.array_equal(np.load(path), getattr(found, path.stem), equal_nan=True)


def test_what_was_saved_can_be_judged_again_and_saved_in_its_place(tmp_path):
    other = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1).repeat(3, 1, 8, 8)
    np.save(tmp_path / "corrected.npy", labels_of(1, 1, 1))
    again = np.load(tmp_path / "corrected.npy", mmap_mode="r")
    label_issues(again, other).save(tmp_path)
    assert (np.load(tmp_path / "corrected.npy") == 1).all()


@pytest.mark.parametrize("labels", [labels_of(0, 1, 7), [*labels_of(0, 1), np.zeros((4, 4), np.uint8)], []])
def test_a_save_that_fails_leaves_what_was_there(tmp_path, labels):
    label_issues(labels_of(0, 1, 0), CERTAIN).save(tmp_path)
    before = loaded(tmp_path)
    with pytest.raises(ValueError, match=r"label|size"):
        label_issues(labels, CERTAIN[: len(labels)]).save(tmp_path)
    after = loaded(tmp_path)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_masked_array_is_refused_and_one_of_the_other_byte_order_is_read():
    labels, probabilities = np.zeros((1, 8, 8), "int64"), np.full((1, 2, 8, 8), 0.5, "float32")
    masked = np.ma.array(labels, mask=np.arange(8) < 4 * np.ones((1, 8, 1), bool))
    with pytest.raises(TypeError, match=r"`labels \(image 0\)` to be a plain array, got a masked one; use .filled"):
        list(label_issues(masked, probabilities))
    for given in (labels, labels.astype(">i8")):
        assert not label_issues(given, probabilities.astype(">f4")).issues.any()
