"""The check of saved predictions before any work: every file is read once, every fault is reported together."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from graphcorrect.files.arrays import is_channels_last, read_maps
from graphcorrect.files.faults import tried
from graphcorrect.files.images import Picture, dark_images, read_picture
from graphcorrect.files.items import MASK_ENDINGS, Item
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.masks import read_mask
from graphcorrect.files.probabilities import LAST, read_prediction
from graphcorrect.labels import IGNORE_INDEX
from graphcorrect.nodes import grid_size


class _Shared:
    """A number that all files must have: the one that was given, or else the one that most of them have."""

    def __init__(self, given: int | None = None) -> None:
        self.given = given
        self._found: dict[Path, int] = {}
        self._counts: Counter[int] = Counter()

    @property
    def number(self) -> int | None:
        """None before the first file."""
        return self._counts.most_common(1)[0][0] if self.given is None and self._counts else self.given

    def add(self, path: Path, number: int) -> None:
        self._found[path] = number
        self._counts[number] += 1

    def faults(self, what: str) -> list[str]:
        """The files that have another."""
        number = self.number
        alike = [path.name for path, found in self._found.items() if found == number]
        of_others = f"{alike[0]} has {number}" if len(alike) == 1 else f"{len(alike)} others have {number}"
        odd = {path: found for path, found in self._found.items() if found != number}
        return [f"{path}: has {found} {what}, {of_others}" for path, found in odd.items()]


class Checker:
    """Reads every file once and lists its faults; what must be the same in all files is what most of them hold."""

    def __init__(
        self,
        num_classes: int | None,
        num_neighbors: int,
        max_nodes: int = 4096,
        channels: str | None = None,
        label_map: LabelMap | None = None,
    ) -> None:
        self.num_neighbors, self.channels = num_neighbors, channels
        self.max_nodes, self.label_map = max_nodes, label_map
        self.classes, self._features = _Shared(num_classes), _Shared()
        self.sizes: dict[str, tuple[int, ...]] = {}  # (height, width) of predictions and images, by name
        self.labeled_sizes: dict[str, tuple[int, int]] = {}  # of true masks, which may be of other images
        self._brightest: list[int | None] = []  # values of images of 16 bits
        self._ids: dict[Path, set[int]] = {}  # that the masks of a folder hold

    @property
    def num_classes(self) -> int | None:
        """How many classes there are, as far as files were read."""
        return self.classes.number

    @property
    def feature_dim(self) -> int | None:
        """How many channels feature maps have, as far as files were read."""
        return self._features.number

    def faults_of_prediction(self, item: Item, mask_confidence: float) -> list[str]:
        """Faults of a prediction and its image and features."""
        classes = self.label_map or self.classes.given
        found, faults = tried(read_prediction, item.labels, classes, mask_confidence, self.channels)
        size = None
        if found is not None:
            probabilities, known = found
            self.classes.add(item.labels, len(probabilities))
            size = tuple(probabilities.shape[1:])
            self.sizes[item.name] = size
            if item.labels.suffix.lower() in MASK_ENDINGS:
                ids = set(probabilities.argmax(0)[known].unique().tolist())
                self._remember(item, ids if known.all() else ids | {IGNORE_INDEX})
        return faults + self._faults_of_keys(item, size)

    def faults_of_image(self, item: Item) -> list[str]:
        """Faults of an image alone, of which a model will say something."""
        assert item.image is not None
        size, faults = self._size_of_image(item.image)
        if size is not None:
            self.sizes[item.name] = size
        return faults

    def faults_of_truth(self, name: str, path: Path) -> list[str]:
        """Faults of the true mask of a prediction or image of that name."""
        labels, faults = tried(read_mask, path, self.label_map or self.num_classes)
        size = self.sizes.get(name)
        if labels is not None and size is not None and tuple(labels.shape) != size:
            faults.append(f"{path}: is {tuple(labels.shape)}, what it is the truth of is {size} (height, width)")
        return faults

    def faults_of_labeled(self, item: Item) -> list[str]:
        """Faults of a true mask and its image and features."""
        labels, faults = tried(read_mask, item.labels, self.label_map or self.num_classes)
        size = None
        if labels is not None:
            size = self.labeled_sizes[item.name] = tuple(labels.shape)
            self._remember(item, set(labels.unique().tolist()))
        return faults + self._faults_of_keys(item, size)

    def faults_of_all(self, *, void: bool = False) -> list[str]:
        """What no single file shows: numbers of classes or channels that differ from those of most files.

        Also masks of one object that hold 0 and 255 only, of which 255 stands for none; with `void` those that hold 255
        only.
        """
        faults = self.classes.faults("classes") + self._features.faults("channels")
        for folder, ids in self._ids.items():
            if ids == {0, IGNORE_INDEX}:
                where = f"{IGNORE_INDEX} stands for no class; where it means a class, save that as 1"
                faults.append(f"{folder}: all masks hold 0 and {IGNORE_INDEX} only, and {where}")
            elif void and ids == {IGNORE_INDEX}:
                faults.append(f"{folder}: all masks hold {IGNORE_INDEX} only, no class at all")
        return faults

    def notes(self) -> list[str]:
        """What is no fault and may be a mistake."""
        return dark_images(self._brightest)

    def _size_of_image(self, path: Path) -> tuple[tuple[int, int] | None, list[str]]:
        """(height, width) of an image, and its faults."""
        picture: Picture | None
        picture, faults = tried(read_picture, path)
        if picture is None:
            return None, faults
        self._brightest.append(picture.brightest)
        return (picture.rgb.height, picture.rgb.width), faults

    def _remember(self, item: Item, ids: set[int]) -> None:
        folder = item.labels.parents[item.name.count("/")]
        self._ids.setdefault(folder, set()).update(ids)

    def _faults_of_keys(self, item: Item, size: tuple[int, int] | None) -> list[str]:
        faults: list[str] = []
        maps = [] if size is None else [size]
        if item.image is not None:
            own, faults = self._size_of_image(item.image)
            if own is not None and size is not None and own != size:
                faults.append(f"{item.image}: is {own}, {item.labels.name} is {size} (height, width)")
        if item.features is not None:
            features, found = tried(read_maps, item.features, self.channels)
            faults += found
            if features is not None:
                shape = tuple(features.shape)
                maps.append(shape[1:])
                if size is not None and self.channels is None and is_channels_last(shape, size):
                    faults.append(
                        f"{item.features}: is {shape}, with the proportions of {item.labels.name}, {size}, if the "
                        f"channels come last; {LAST}, --channels first takes them as they are"
                    )
                else:
                    self._features.add(item.features, len(features))
        if maps:  # the graph is that of the coarsest map, pooled
            height, width = min(maps, key=math.prod)
            cells = math.prod(grid_size(height, width, self.max_nodes))
            if cells <= self.num_neighbors and height * width > 1:
                pooled = f" of at most {self.max_nodes}" if cells < height * width else ""
                faults.append(f"{item.labels}: {cells} cells{pooled}, too few for {self.num_neighbors} neighbors each")
        return faults
