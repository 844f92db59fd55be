"""Zip archives of data sets: taken apart with care, and made as CVAT takes them."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from torch import Tensor

from graphcorrect.files.class_names import MOST_CLASSES
from graphcorrect.files.class_tables import Color
from graphcorrect.files.faults import reading, refuse
from graphcorrect.files.folders import is_hidden, is_junk
from graphcorrect.files.label_maps import LabelMap, list_of_classes
from graphcorrect.files.masks import encode_mask
from graphcorrect.files.saving import replace
from graphcorrect.files.stored_masks import mask_bytes, voc_colors
from graphcorrect.files.text import lines_of
from graphcorrect.labels import IGNORE_INDEX

MOST_BYTES = 64 * 2**30  # of all files of an archive together
MOST_RATIO = 1000  # of a file of more than a megabyte to what it takes in the archive; pictures are packed already
MOST_FILES = 2_000_000
MARK = ".unpacked"  # says of which archive a folder holds the files


def unpack(archive: Path, folder: Path) -> Path:
    """The files of a zip archive in a folder, which is returned: a new one, or that of the same archive's last time.

    Files of file managers are left out.

    Raises:
        FileFault: it is no zip archive, or a part is damaged; the message names it.
        ValueError: a name in it leads out of the folder, is a link, stands twice or unpacks to far more than it takes,
            all of them listed; or the folder holds other files. Nothing is written then.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_cvat_zip(folder / "export.zip", [("a", torch.tensor([[0, 1]]))], LabelMap(("road", "car")))
        >>> sorted(path.name for path in unpack(folder / "export.zip", folder / "export").iterdir())[1:]
        ['ImageSets', 'SegmentationClass', 'labelmap.txt']
    """
    archive, folder = Path(archive), Path(folder)
    with reading(archive, "a zip archive"):
        sign = f"{archive.resolve()} {archive.stat().st_size} {archive.stat().st_mtime_ns}"
        content = zipfile.ZipFile(archive)
    if (folder / MARK).is_file() and (folder / MARK).read_text(encoding="utf-8") == sign:
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"expected `folder` to be new or empty, got {folder}")
    with content:
        infos = [info for info in content.infolist() if not info.is_dir()]
        paths = {info: PurePosixPath(info.filename.replace("\\", "/")) for info in infos}
        members = {info: p for info, p in paths.items() if "__MACOSX" not in p.parts and not is_junk(p.name)}
        refuse([f"{archive}: {fault}" for fault in _faults_of(members)], "the archive has")
        try:
            with reading(archive, "a zip archive"):
                for info, path in members.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    with content.open(info) as packed, (folder / path).open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
        except BaseException:  # half an archive would pass for a whole one
            shutil.rmtree(folder, ignore_errors=True)
            raise
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(sign, encoding="utf-8")
    return folder


def _faults_of(members: dict[zipfile.ZipInfo, PurePosixPath]) -> list[str]:
    faults, seen = [], set()
    for info, path in members.items():
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            faults.append(f"{info.filename!r} leads out of the folder")
        elif stat.S_ISLNK(info.external_attr >> 16):
            faults.append(f"{info.filename!r} is a link")
        elif info.flag_bits & 1:
            faults.append(f"{info.filename!r} is encrypted")
        elif path in seen:
            faults.append(f"{info.filename!r} stands twice")
        elif info.file_size > 2**20 and info.file_size > MOST_RATIO * max(1, info.compress_size):
            faults.append(f"{info.filename!r} unpacks to {info.file_size:,} bytes from {info.compress_size:,}")
        seen.add(path)
    total = sum(info.file_size for info in members)
    if total > MOST_BYTES or len(members) > MOST_FILES:
        faults.append(f"holds {len(members):,} files of {total:,} bytes: unpack it yourself")
    return faults


def write_cvat_zip(
    path: Path, masks: Iterable[tuple[str, Tensor]], label_map: LabelMap, *, subset: str = "default"
) -> None:
    """Masks as an archive that CVAT imports as "Segmentation mask 1.1".

    Args:
        path: of the archive.
        masks: name of the image, without its ending, and labels (H, W), 255 where there is none; taken one at a time.
        label_map: names, and their colors where there are some, else those of VOC.
        subset: name of the list of images.

    CVAT has no pixels without a class: black is `background` there. Where no class is black or called that, they become
    it, listed behind the classes, whose labels stay as they are; else they get a color of their own, and a label called
    void is needed in CVAT.

    Raises:
        ValueError: a name stands twice, leads out of the archive or is no line of a list, a label is outside the
            classes, or the list of labels has no place for a class's name; the message says which.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_cvat_zip(folder / "export.zip", [("a", torch.tensor([[0, 1]]))], LabelMap(("road", "car")))
        >>> open_dataset(folder / "export.zip", unpack_to=folder / "export").pairs[0].name
        'a'
    """
    painted = with_one_color_each(label_map)
    try:  # what the list can't hold, be there pixels without a class or not, is refused before any work
        _list_of(painted, has_void=True)
    except ValueError:
        _list_of(painted, has_void=False)
    names: dict[PurePosixPath, str] = {}

    def write(file: IO[bytes]) -> None:
        has_void = False
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, labels in masks:
                place = PurePosixPath(name)
                if not place.parts or ".." in place.parts or place.is_absolute() or place in names:
                    raise ValueError(f"expected names within the archive, each once, got {name!r}")
                if lines_of(name) != [name] or any(is_hidden(part) for part in place.parts):
                    raise ValueError(f"expected names that a list and a folder of files show, got {name!r}")
                names[place] = name
                has_void = has_void or bool((labels == IGNORE_INDEX).any())
                archive.writestr(f"SegmentationClass/{name}.png", mask_bytes(encode_mask(labels, painted, "rgb")))
            archive.writestr("labelmap.txt", _list_of(painted, has_void))
            archive.writestr(f"ImageSets/Segmentation/{subset}.txt", "".join(f"{name}\n" for name in names.values()))

    replace(path, write)


def _list_of(painted: LabelMap, has_void: bool) -> str:
    """CVAT's `labelmap.txt`, which is read as it was meant; pixels without a class are listed where there are some."""
    names, colors = painted.names, dict(painted.colors)
    if colors.get((0, 0, 0)) == IGNORE_INDEX and not _background_in(names) and len(names) < MOST_CLASSES:
        names, colors[0, 0, 0] = (*names, "background"), len(names)
    called_void = [name for name in names if name.lower() == "void"]
    if called_void and has_void and IGNORE_INDEX in colors.values():
        raise ValueError(f"expected names beside void, of pixels without a class, got {called_void[0]!r}; rename it")
    held = {color: label for color, label in colors.items() if label < IGNORE_INDEX or has_void}
    return list_of_classes(Path("labelmap.txt"), names, held)


def _background_in(names: tuple[str, ...]) -> list[int]:
    """The labels of classes that are called background: one at most, in a list that can be read."""
    return [label for label, name in enumerate(names) if name.lower() == "background"]


def with_one_color_each(label_map: LabelMap) -> LabelMap:
    """The map with one color for each class and for pixels without one: the first it has, else a free one of VOC's."""
    free = (color for color in voc_colors() if color not in label_map.colors)
    first = {label: label_map.color_of(label) for label in (*range(label_map.num_classes), IGNORE_INDEX)}
    colors: dict[Color, int] = {}
    called_so = next(iter(_background_in(label_map.names)), IGNORE_INDEX)
    if first[called_so] is None:
        first[called_so] = next(free)  # black, where no class is
    for label, color in first.items():
        colors[color or next(free)] = label
    return LabelMap(label_map.names, colors)
