"""Images are seen as a viewer shows them, masks hold the ids of the file, and what cannot be read is named."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import write_voc

from graphcorrect.files import _pictures, faults, images
from graphcorrect.files.stored_masks import voc_colors

checking = pytest.importorskip("segmentation.checking")
datasets = pytest.importorskip("segmentation.datasets")
layouts = pytest.importorskip("segmentation.layouts")
recipes = pytest.importorskip("segmentation.recipe")

IDS = (np.arange(24 * 32).reshape(24, 32) // 32 % 4).astype(np.uint8)
VOC = [part for color in voc_colors() for part in color]
CORNER = np.zeros((24, 32, 3), np.uint8)
CORNER[:8, :10] = (250, 120, 10)  # top left


def seen(path):
    return images.read_image(path).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_an_image_is_upright_as_its_exif_says(tmp_path, orientation, ending):
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = Image.fromarray(CORNER).transpose(_pictures.UPRIGHT[inverse])
    exif = Image.Exif()
    exif[_pictures.ORIENTATION] = orientation
    stored.save(tmp_path / f"turned{ending}", exif=exif, quality=98)
    found = seen(tmp_path / f"turned{ending}")
    assert found.shape == CORNER.shape
    assert abs(found.astype(int) - CORNER).mean() < 4
    assert images.read_picture(tmp_path / f"turned{ending}").stored == (stored.height, stored.width)


GREY16 = (np.arange(24 * 32).reshape(24, 32) * 85).astype(np.uint16)  # 0 to 65195


@pytest.mark.parametrize(("ending", "dtype"), [(".png", "<u2"), (".tif", "<u2"), (".tif", ">u2"), (".tif", "<i4")])
def test_grey_of_16_bits_keeps_its_levels(tmp_path, ending, dtype):
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[dtype]
    Image.frombytes(mode, (32, 24), GREY16.astype(dtype).tobytes()).save(tmp_path / f"deep{ending}")
    found = seen(tmp_path / f"deep{ending}")
    assert (found == np.round(GREY16 / 257)[..., None]).all()
    assert len(np.unique(found)) > 250


def image(mode):
    """One picture of the same colors in a mode: the left half is dark, the right one bright."""
    grey = Image.fromarray(np.repeat([[20] * 16 + [200] * 16], 24, 0).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        grey = grey.convert(mode)
        grey.putalpha(255)
    return grey.point(lambda value: value > 128, "1") if mode == "1" else grey.convert(mode)


@pytest.mark.parametrize(("mode", "bright"), [("L", 200), ("LA", 200), ("RGBA", 200), ("1", 255), ("P", 200)])
def test_every_mode_is_seen_in_its_colors(tmp_path, mode, bright):
    image(mode).save(tmp_path / "picture.png")
    found = seen(tmp_path / "picture.png")
    assert (found[:, 16:] == bright).all()
    assert (found[:, :16] == (0 if mode == "1" else 20)).all()


def test_a_palette_with_transparency_is_seen_in_its_colors(tmp_path):
    picture = Image.fromarray(IDS).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "clear.png", transparency=bytes([0, 128, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (seen(tmp_path / "clear.png")[IDS == 2] == (0, 255, 0)).all()


def png(bits, rows, kind=0):
    """A PNG of a few bits, as annotation tools and pngcrush write it."""
    height, width = rows.shape
    per_byte = 8 // bits
    values = rows.reshape(height, width // per_byte, per_byte)
    packed = sum(values[..., place].astype(int) << (8 - bits * (place + 1)) for place in range(per_byte))
    lines = b"".join(b"\x00" + bytes(line.astype(np.uint8)) for line in packed)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(VOC[: 3 * 2**bits])) if kind == 3 else b""
    parts = chunk(b"IHDR", header), palette, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [0, 3])
def test_masks_of_few_bits_hold_the_ids_that_were_written(tmp_path, bits, kind):
    """A grey PNG of 2 bits holds 0 to 3; PIL stretches them to 0, 85, 170, 255."""
    ids = (IDS * 60 if bits == 8 else IDS) & (2**bits - 1)
    (tmp_path / "mask.png").write_bytes(png(bits, ids, kind))
    assert (datasets.read_mask(tmp_path / "mask.png").numpy() == ids).all()


@pytest.mark.parametrize(
    ("mode", "ending"),
    [(mode, ending) for mode in ("L", "P", "1", "I;16") for ending in (".png", ".tif")] + [("I", ".tif")],
)
def test_masks_of_every_mode_hold_their_ids(tmp_path, mode, ending):
    ids = IDS % 2 if mode == "1" else IDS
    if mode in ("I;16", "I"):
        picture = Image.frombytes(mode, (32, 24), ids.astype("<u2" if mode == "I;16" else "<i4").tobytes())
    else:
        picture = Image.fromarray(ids * 255).convert("1") if mode == "1" else Image.fromarray(ids, mode=mode)
    if mode == "P":
        picture.putpalette(VOC)
    picture.save(tmp_path / f"mask{ending}")
    found = datasets.read_mask(tmp_path / f"mask{ending}")
    assert found.dtype == torch.uint8
    assert (found.numpy() == ids).all()


def huge(path):
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    content = png(8, IDS)
    path.write_bytes(content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:])


def mat(**variables):
    def write(path):
        from scipy.io import savemat

        savemat(path, variables)

    return write


def cut_mat(path):
    mat(GTcls={"Segmentation": IDS})(path)
    path.write_bytes(path.read_bytes()[:300])


HEAD_OF_73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64 HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM"


def flipped(path):
    Image.fromarray(IDS).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


MASKS = {
    "huge.png": (huge, "more than"),
    "empty.png": (lambda path: path.write_bytes(b""), "cannot identify"),
    "text.png": (lambda path: path.write_text("no picture"), "cannot identify"),
    "folder.png": (lambda path: path.mkdir(), "directory"),
    "cut.png": (lambda path: path.write_bytes(png(8, IDS)[:60]), "unreadable"),
    "flipped.png": (flipped, "unreadable"),
    "colors.png": (lambda path: Image.fromarray(CORNER).save(path), "save the ids of the classes, not their colors"),
    "alpha.png": (lambda path: Image.fromarray(IDS).convert("LA").save(path), "one 8-bit channel"),
    "instances.png": (lambda path: Image.fromarray(GREY16).save(path), "0 to 65195 in 16 bits"),
    "lossy.jpg": (lambda path: Image.fromarray(IDS).save(path), "JPEG changes them"),
    "pages.tif": (lambda path: Image.fromarray(IDS).save(path, save_all=True, append_images=[Image.fromarray(IDS)]),
                  "2 frames or pages"),
    "empty.mat": (lambda path: path.write_bytes(b""), "unreadable"),
    "instances.mat": (mat(GTinst={"Segmentation": IDS}), "expected the variable GTcls"),
    "many.mat": (mat(GTcls={"Segmentation": IDS.astype(np.uint16) + 300}), "ids from 0 to 255, got 300 to 303"),
    "cut.mat": (cut_mat, "unreadable"),
    "new.mat": (lambda path: path.write_bytes(HEAD_OF_73 + b"\x89HDF\r\n\x1a\n" + bytes(99)), "MATLAB 7.3"),
    "gone.png": (lambda path: None, "missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_cannot_be_read_ends_in_its_name(tmp_path, name):
    write, words = MASKS[name]
    write(tmp_path / name)
    with pytest.raises(faults.UnreadableFile, match=words) as caught:
        datasets.read_mask(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in MASKS if name.split(".")[0] in "huge empty text folder cut gone"])
def test_an_image_that_cannot_be_read_ends_in_its_name(tmp_path, name):
    MASKS[name][0](tmp_path / name)
    with pytest.raises(faults.UnreadableFile) as caught:
        images.read_image(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_loading_process_says_no_more_than_the_name(tmp_path):
    error = faults.UnreadableFile(
        "Caught UnreadableFile in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "loading.py", line 1\ngraphcorrect.files.faults.UnreadableFile: a.png: missing\n'
    )
    assert str(error) == "a.png: missing"


# --- what only all files together show


def opened(tmp_path, change=lambda ids: ids, names=None, palettes=None, labeled="4"):
    """A data set of three classes whose masks `change` has gone over."""
    folder = write_voc(tmp_path / "voc")
    for number, path in enumerate(sorted((folder / "SegmentationClass").iterdir())):
        ids = np.array(Image.open(path)) % 3
        mask = Image.fromarray(change(ids).astype(np.uint8))
        if palettes:
            mask.putpalette(palettes[number % len(palettes)])
        mask.save(path)
    (folder / "classes.txt").write_text("\n".join(names or ["ground", "sheep", "goat"]))
    return layouts.open_data(recipes.Data(folder=str(folder), labeled=labeled), 0, tmp_path)


ONE_CLASS = {
    "0 and 255": (lambda ids: (ids > 0) * 255, "'ground', and none is 'sheep', 'goat'; .* 255 stands for a class"),
    "0 alone": (lambda ids: ids * 0, "'ground', and none is 'sheep', 'goat'; 0.0 % of the pixels"),
    "1 and 255": (lambda ids: np.where(ids > 0, 255, 1), "'sheep', and none is 'ground', 'goat'"),
    "255 alone": (lambda ids: ids * 0 + 255, "no labeled pixel in the 4 labeled masks, all are void"),
}


@pytest.mark.parametrize("kind", ONE_CLASS)
def test_masks_of_one_class_are_refused(tmp_path, kind):
    change, words = ONE_CLASS[kind]
    with pytest.raises(ValueError, match=words):
        checking.check(opened(tmp_path, change))


def test_a_class_that_nobody_labeled_is_said(tmp_path):
    notes = checking.check(opened(tmp_path, lambda ids: ids % 2)).notes
    assert any("1 of the 3 class names occur in no mask: 'goat'" in note for note in notes)
    assert checking.check(opened(tmp_path / "all")).notes == []


def test_class_names_that_do_not_fit_the_masks_are_said(tmp_path):
    notes = checking.check(opened(tmp_path, names=["ground", "sheep", "goat", "cow", "hen"])).notes
    assert any("2 of the 5 class names occur in no mask: 'cow', 'hen'" in note for note in notes)
    with pytest.raises(ValueError, match=r"11 fault.*\n.*ids \[2\], expected 0 to 1 or 255"):
        checking.check(opened(tmp_path / "few", names=["ground", "sheep"]))
    notes = checking.check(opened(tmp_path / "test", labeled="2")).notes
    assert notes == []


def test_labeled_masks_that_are_void_are_said(tmp_path):
    data = opened(tmp_path)
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(data.labeled[1].mask)
    assert checking.check(data).notes == [f"1 labeled mask(s) without a labeled pixel: {data.labeled[1].mask}"]


GREEN_RED, RED_GREEN = ([0, 0, 0, *first, *second] + VOC[9:] for first, second in
                        (((0, 255, 0), (255, 0, 0)), ((255, 0, 0), (0, 255, 0))))  # fmt: skip


def test_palettes_that_disagree_are_refused_file_by_file(tmp_path):
    words = r"(?s)5 fault.*000001.png: its palette has color \(255, 0, 0\) for id 1, most masks have \(0, 255, 0\)"
    with pytest.raises(ValueError, match=words):
        checking.check(opened(tmp_path, palettes=[GREEN_RED, RED_GREEN]))


@pytest.mark.parametrize(
    "palettes",
    [
        [VOC],
        [GREEN_RED, GREEN_RED[:9] + [9, 9, 9] + GREEN_RED[12:]],  # a color that no pixel has
        [VOC, VOC[:765] + [255, 255, 255]],  # another color of what is ignored
    ],
)
def test_palettes_that_agree_on_what_is_used_are_taken(tmp_path, palettes):
    def with_void(ids):
        ids[0] = 255
        return ids

    checking.check(opened(tmp_path, with_void, palettes=palettes))


def test_images_that_are_turned_or_nearly_black_are_said(tmp_path):
    data = opened(tmp_path)
    exif = Image.Exif()
    exif[_pictures.ORIENTATION] = 3
    Image.open(data.labeled[0].image).save(data.labeled[0].image, exif=exif)
    dark = data.test[0].image
    Image.fromarray((GREY16 // 32).astype(np.uint16)).resize((48, 40), Image.Resampling.NEAREST).save(
        dark.with_suffix(".png")
    )
    data = data._replace(test=[datasets.Sample(dark.with_suffix(".png"), data.test[0].mask)])
    notes = checking.check(data).notes
    assert any("1 image(s) are turned upright" in note and str(data.labeled[0].image) in note for note in notes)
    assert any("1 image(s) of 16 bits hold no value above 2037 of 65535" in note for note in notes)


def test_a_turned_image_of_another_shape_names_both_shapes(tmp_path):
    data = opened(tmp_path)
    exif = Image.Exif()
    exif[_pictures.ORIENTATION] = 6
    Image.open(data.labeled[0].image).save(data.labeled[0].image, exif=exif)
    with pytest.raises(ValueError, match=r"is \(40, 48\), its image is \(48, 40\) .*, \(40, 48\) before it is turned"):
        checking.check(data)


def test_the_reason_stands_without_the_name_for_whoever_names_the_file(tmp_path):
    Image.fromarray(CORNER).save(tmp_path / "colors.png")
    for name, reason in (("colors.png", "expected a mask of one 8-bit channel"), ("gone.png", "missing")):
        with pytest.raises(faults.UnreadableFile) as caught:
            datasets.read_mask(tmp_path / name)
        assert caught.value.reason.startswith(reason)
