"""The embedded scenes of handwritten digits, written in PASCAL VOC's layout."""

from __future__ import annotations

from pathlib import Path

from graphcorrect.cli.digits import CLASS_NAMES, SCENE_SIZE, drawn
from graphcorrect.files.stored_masks import StoredMask, mask_bytes, voc_colors


def write_digit_scenes(
    folder: Path, *, num_train: int = 600, num_val: int = 100, seed: int = 0, size: int = SCENE_SIZE
) -> Path:
    """Write the scenes once and return `folder`; a folder whose last file is there is taken as it is.

    Args:
        folder: where `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation` and `classes.txt` go.
        num_train: number of scenes to train on.
        num_val: number of scenes of other writers.
        seed: draws everything; the same seed writes the same scenes.
        size: side of the square scenes, in pixels.
    """
    if (folder / "classes.txt").exists():
        return folder
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_train), ("val", num_val)):
        names = [f"{split}_{number:04d}" for number in range(count)]
        for name, (image, labels) in zip(names, drawn(split, seed, size), strict=False):
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
            mask = mask_bytes(StoredMask(labels, voc_colors()))
            (folder / "SegmentationClass" / f"{name}.png").write_bytes(mask)
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    # Written last: its presence says that the folder is complete.
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    return folder
