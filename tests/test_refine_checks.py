"""What the check of all files tells before any work is done: which of them are odd, and what may be a mistake."""

import numpy as np
import pytest
import refine_photos
from PIL import Image
from saved_predictions import NAMES, command, refine_masks

pytest.importorskip("tqdm")


@pytest.mark.parametrize("odd", NAMES)
def test_the_odd_file_is_the_fault_and_not_the_others(folders, odd):
    np.save(folders / f"probabilities/{odd}.npy", np.full((4, 18, 24), 0.25))
    np.savez(folders / f"features/{odd}.npz", np.zeros((2, 9, 12)))
    with pytest.raises(SystemExit) as caught:
        refine_masks.run(command(folders, keys="features", more=["--labeled-masks", str(folders / "truth")]))
    message = str(caught.value)
    assert "2 fault(s):" in message
    assert f"probabilities/{odd}.npy: has 4 classes, 2 others have 3" in message
    assert f"features/{odd}.npz: has 2 channels, 2 others have 18" in message


def test_images_of_twelve_bits_are_noted_to_be_nearly_black(photos, capsys):
    pictures = [photos / f"photos/images/{name}.png" for name in refine_photos.NAMES]
    for path in pictures:
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(grey * 16).save(path)
    code, text = refine_photos.answer(refine_photos.options(photos), capsys)
    assert code == 0, text
    assert "image(s) of 16 bits hold no value above" in text
    assert "are nearly black: scale them to 16 bits" in text
