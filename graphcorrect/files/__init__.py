"""Images, masks, probabilities and data sets as people's tools write them: read, corrected, and written back.

A file that cannot be used is named, and where there are many of them all are listed at once. What a format needs is
imported when it is met; the extra `cli` brings it all.
"""

from typing import Any

# name -> the module that has it, imported at first use: Pillow is needed for pictures alone
_LAZY = {
    "BrushMask": "label_studio",
    "Dataset": "pairs",
    "FileFault": "faults",
    "LabelMap": "label_maps",
    "Pair": "pairs",
    "StoredMask": "stored_masks",
    "UnreadableFile": "faults",
    "brush_results": "label_studio",
    "check_pairs": "datasets",
    "decode_brush": "brush",
    "encode_brush": "brush",
    "open_dataset": "datasets",
    "read_brush_masks": "label_studio",
    "read_image": "images",
    "read_label_map": "label_maps",
    "read_mask": "masks",
    "read_probabilities": "probabilities",
    "read_stored_mask": "stored_masks",
    "unpack": "archives",
    "write_brush_masks": "label_studio",
    "write_cvat_zip": "archives",
    "write_dataset_yaml": "dataset_yaml",
    "write_label_map": "label_maps",
    "write_mask": "masks",
    "write_probabilities": "probabilities",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
