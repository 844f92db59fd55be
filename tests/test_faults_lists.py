"""One image is one image however a list spells it, in whatever encoding; every form of the field's lists is read."""

import codecs
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from trainer_data import write_camvid, write_cityscapes, write_voc

from graphcorrect.files import text

checking = pytest.importorskip("segmentation.checking")
layouts = pytest.importorskip("segmentation.layouts")
lists = pytest.importorskip("segmentation.lists")
recipes = pytest.importorskip("segmentation.recipe")

NAMES = [f"2007_{number:06d}" for number in range(4)]


def opened(folder, out, **settings):
    return layouts.open_data(recipes.Data(folder=str(folder), **settings), 0, out)


def stems(samples):
    return [sample.image.stem for sample in samples]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("lists") / "VOC2012")


PAIR = "JPEGImages/{0}.jpg{1}SegmentationClass/{0}.png"
FORMS = {
    "names": [*NAMES],
    "names with endings": [f"{name}.jpg" for name in NAMES],
    "another ending": [f"{name}.PNG" for name in NAMES],
    "images": [f"JPEGImages/{name}.jpg" for name in NAMES],
    "a slash": [f"/JPEGImages/{name}.jpg /SegmentationClass/{name}.png" for name in NAMES],
    "a dot": [f"./JPEGImages/{name}.jpg ./SegmentationClass/{name}.png" for name in NAMES],
    "pairs": [PAIR.format(name, " ") for name in NAMES],
    "tabs": [PAIR.format(name, "\t") for name in NAMES],
    "two blanks": [PAIR.format(name, "  ") for name in NAMES],
    "commas": [PAIR.format(name, ",") for name in NAMES],
    "quotes": [f'"JPEGImages/{name}.jpg" "SegmentationClass/{name}.png"' for name in NAMES],
    "backslashes": [PAIR.format(name, " ").replace("/", "\\") for name in NAMES],
    "from above": [f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in NAMES],
    "of another machine": [f"/home/me/VOC2012/JPEGImages/{name}.jpg" for name in NAMES],
    "pairs from above": [PAIR.format(name, " ").replace("JPEG", "VOC2012/JPEG") for name in NAMES],
    "another case": [f"jpegimages/{name}.JPG segmentationclass/{name}.PNG" for name in NAMES],
    "comments": ["# split 0", "", *(f"{name}  # checked" for name in NAMES), "   "],
    "what file managers leave": ["Thumbs.db", ".DS_Store", *NAMES, "._2007_000000.jpg", "JPEGImages/._2007_000001.jpg"],
    "a mark": ["\ufeff" + NAMES[0], *NAMES[1:]],
    "carriage returns": [name + "\r" for name in NAMES],
    "blanks behind": [name + " \t" for name in NAMES],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_names_the_same_samples(voc, tmp_path, form):
    usual = opened(voc, tmp_path, labeled=str(write(tmp_path / "usual.txt", "\n".join(NAMES))))
    data = opened(voc, tmp_path, labeled=str(write(tmp_path / "labeled.txt", "\n".join(FORMS[form]))))
    assert stems(data.labeled) == NAMES
    assert data.labeled == usual.labeled
    assert data.unlabeled == usual.unlabeled
    checking.check(data)


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_is_read_in_every_encoding(tmp_path, encoding, end):
    lines = ["straße 1", "käse_2", "img_3"]
    path = write(tmp_path / "list.txt", end.join(lines), encoding)
    assert text.read_lines(path) == lines


def test_what_is_no_list_is_named(voc, tmp_path):
    picture = next((voc / "JPEGImages").iterdir())
    with pytest.raises(ValueError, match=f"{picture.name}: expected a text file"):
        opened(voc, tmp_path, labeled=str(picture))
    for nothing in ("", "\n \n", "# nothing\n", codecs.BOM_UTF8, "Thumbs.db\n"):
        with pytest.raises(ValueError, match=r"none\.txt to name images, one a line, got an empty list"):
            opened(voc, tmp_path, labeled=str(write(tmp_path / "none.txt", nothing)))
    data = opened(voc, tmp_path, labeled=str(write(tmp_path / "wrong.txt", "2007_000000\n2007_00000l\nstraße\n")))
    with pytest.raises(ValueError, match="2 fault") as caught:
        checking.check(data)
    for fault in ("2007_00000l.jpg: missing (line 2 of", "straße.jpg: missing (line 3 of"):
        assert fault in str(caught.value)


@pytest.mark.parametrize("layout", ["voc", "camvid"])
def test_a_name_may_begin_as_a_comment_does(tmp_path, layout):
    folder = (write_voc if layout == "voc" else write_camvid)(tmp_path / "data")
    places = ("JPEGImages", "SegmentationClass") if layout == "voc" else ("train", "trainannot")
    images, masks = (sorted((folder / place).iterdir()) for place in places)
    names = [path.stem for path in images[:3]]
    for file in (images[0], masks[0]):
        file.rename(file.with_name(f"#first{file.suffix}"))
    path = write(tmp_path / "labeled.txt", "\n".join(["# a comment", "#", "#first", f"#{names[1]}", names[2]]))
    if layout == "voc":
        (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(["#first", *names[1:]]))
    (tmp_path / "out").mkdir()
    for goes_on in (False, True):
        data = layouts.open_data(
            recipes.Data(folder=str(folder), labeled=str(path), layout=layout), 0, tmp_path / "out", goes_on=goes_on
        )
        assert stems(data.labeled) == ["#first", names[2]]
        assert stems(data.labeled + data.unlabeled).count("#first") == 1


@pytest.mark.parametrize("end", ["\n", "\n\n", ""])
def test_lists_that_hold_no_images_are_named(voc, tmp_path, end):
    of_classes = "\n".join(f"{name}  {said}" for name, said in zip(NAMES, (1, -1, 0), strict=False))
    with pytest.raises(ValueError, match=r"dog_train\.txt to name images, and masks .*ImageSets/Segmentation"):
        opened(voc, tmp_path, labeled=str(write(tmp_path / "dog_train.txt", of_classes + end)))
    with pytest.raises(ValueError, match=r"out\.txt to name images, one a line, got comments alone"):
        opened(voc, tmp_path, labeled=str(write(tmp_path / "out.txt", "#2007_gone\n#2008_gone" + end)))


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".JPEG", ".png"])
def test_names_of_every_kind_are_found(tmp_path, on_disk, listed, ending):
    """Blanks, composed letters, endings in capitals; a name is the same in every list."""
    folder = write_voc(tmp_path / "voc", train=0, val=2)
    names = ["Küche 1", "Straße 2", "señal 3", "plain_4", "e #5", "a,6"]
    for name in names:
        stem = unicodedata.normalize(on_disk, name)
        image = np.full((8, 8, 3), 90, np.uint8)
        Image.fromarray(image).save(folder / "JPEGImages" / f"{stem}{ending}")
        Image.fromarray(image[..., 0] % 3).save(folder / "SegmentationClass" / f"{stem}.png")
    lines = [unicodedata.normalize(listed, name) for name in names]
    write(folder / "ImageSets/Segmentation/train.txt", "\n".join(lines))
    pairs = [f"JPEGImages/{line}.jpg SegmentationClass/{line}.png" for line in lines[:3]]
    data = opened(folder, tmp_path, labeled=str(write(tmp_path / "labeled.txt", "\n".join(pairs))))
    assert [unicodedata.normalize("NFC", name) for name in stems(data.labeled + data.unlabeled)] == names
    assert all(sample.image.is_file() and sample.mask.is_file() for sample in data.labeled + data.unlabeled)


def test_an_image_is_one_image_within_a_list_and_between_lists(voc, tmp_path):
    spelled = ["2007_000000", "JPEGImages/2007_000000.jpg", "./2007_000000.JPG", "/jpegimages/2007_000000.jpg",
               "2007_000001"]  # fmt: skip
    labeled = write(tmp_path / "labeled.txt", "\n".join(spelled))
    write(tmp_path / "unlabeled.txt", "/JPEGImages/2007_000000.jpg\n2007_000002.JPG\n2007_000003")
    data = opened(voc, tmp_path / "out", labeled=str(labeled))
    assert stems(data.labeled) == ["2007_000000", "2007_000001"]
    assert stems(data.unlabeled) == ["2007_000002", "2007_000003"]
    assert any("3 line(s) name an image again" in note for note in data.notes)
    test = write(tmp_path / "test.txt", "JPEGImages/2007_000001.JPG\n2007_000008")
    data = opened(voc, tmp_path / "out", labeled=str(labeled), test=str(test))
    with pytest.raises(ValueError, match=r"2007_000001.jpg: is among the training images and the test images"):
        checking.check(data)


def test_a_link_is_the_image_that_it_leads_to(tmp_path):
    folder = write_voc(tmp_path / "voc")
    os.symlink(folder / "JPEGImages/2007_000001.jpg", folder / "JPEGImages/again.jpg")
    labeled = write(tmp_path / "labeled.txt", "2007_000000\n2007_000001")
    unlabeled = write(tmp_path / "more.txt", "again\n2007_000002")
    data = opened(folder, tmp_path / "out", labeled=str(labeled), unlabeled=str(unlabeled))
    assert stems(data.unlabeled) == ["2007_000002"]


def test_a_name_that_may_be_two_images_is_refused(tmp_path):
    folder = write_voc(tmp_path / "voc")
    Image.new("RGB", (48, 40)).save(folder / "JPEGImages/2007_000001.png")
    with pytest.raises(ValueError, match=r"line 2: '.*2007_000001' may be 2007_000001.jpg or 2007_000001.png"):
        opened(folder, tmp_path / "out", labeled="3")
    lines = [f"{name}.jpg" for name in [*NAMES, "2007_000004", "2007_000005"]]
    write(folder / "ImageSets/Segmentation/train.txt", "\n".join(lines))  # a list that says which
    assert len(opened(folder, tmp_path / "out", labeled="3").labeled) == 3
    two = write(tmp_path / "two.txt", f"{PAIR.format(NAMES[0], ' ')}\n{NAMES[0]}.jpg SegmentationClass/{NAMES[2]}.png")
    with pytest.raises(ValueError, match="names .*2007_000000.jpg with two masks"):
        opened(folder, tmp_path / "out", labeled=str(two))


@pytest.mark.parametrize("form", ["{0} {0}", "{0}\t{0}", "{0}", "/{0} /{0}"])
@pytest.mark.parametrize("grey", [False, True])
def test_unlabeled_images_need_no_masks(tmp_path, form, grey):
    folder = write_voc(tmp_path / "voc")
    for name in NAMES[2:]:
        (folder / f"SegmentationClass/{name}.png").unlink()
        if grey:
            image = folder / f"JPEGImages/{name}.jpg"
            Image.open(image).convert("L").save(image)
    write(tmp_path / "labeled.txt", "\n".join(NAMES[:2]))
    write(tmp_path / "unlabeled.txt", "\n".join(form.format(f"JPEGImages/{name}.jpg") for name in NAMES[2:]))
    data = opened(folder, tmp_path / "out", labeled=str(tmp_path / "labeled.txt"))
    checking.check(data)
    assert stems(data.unlabeled) == NAMES[2:]
    assert not any(sample.mask and sample.mask.exists() for sample in data.unlabeled)
    twice = write(tmp_path / "twice.txt", "\n".join(form.format(f"JPEGImages/{name}.jpg") for name in NAMES[2:]))
    data = opened(folder, tmp_path / "out", labeled=str(twice), unlabeled=str(tmp_path / "labeled.txt"))
    with pytest.raises(ValueError, match=r"(has no mask|2007_000002.png: missing)"):
        checking.check(data)


def test_cityscapes_of_train_ids_alone_and_of_every_list(tmp_path):
    folder = write_cityscapes(tmp_path / "city")
    for mask in folder.glob("gtFine/*/*/*_labelIds.png"):
        ids = np.array(Image.open(mask)) % 19
        Image.fromarray(ids.astype(np.uint8)).save(mask.with_name(mask.name.replace("labelIds", "labelTrainIds")))
        mask.unlink()
        image = folder / mask.relative_to(folder / "gtFine").parent.as_posix().join(("leftImg8bit/", ""))
        (image / "._mac_leftImg8bit.png").write_bytes(b"finder")
    drawn = opened(folder, tmp_path / "out", labeled="3")
    checking.check(drawn)
    assert (len(drawn.labeled), len(drawn.unlabeled), len(drawn.test)) == (3, 5, 3)
    assert all(sample.mask.name.endswith("_labelTrainIds.png") for sample in drawn.labeled + drawn.test)
    image = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    mask = "gtFine/train/aachen/aachen_000000_000019_gtFine_{}.png"
    forms = (
        image,
        f"{image} {mask.format('labelTrainIds')}",
        f"/{image}\t/{mask.format('labelIds')}",
        image.removeprefix("leftImg8bit/"),
        "aachen_000000_000019",
        "aachen_000000_000019_leftImg8bit.png",
    )
    samples = lists.Samples(folder, "cityscapes")
    found = {listed.sample[:2] for listed in samples.of(forms, "forms")}
    assert found == {(folder / image, folder / mask.format("labelTrainIds"))}


@pytest.mark.parametrize("form", ["{1}", "train/{1}", "/SegNet/CamVid/train/{1}.png /SegNet/CamVid/trainannot/{1}.png"])
def test_camvid_reads_the_list_of_segnet(tmp_path, form):
    folder = write_camvid(tmp_path / "camvid")
    (folder / "train/Thumbs.db").write_bytes(b"windows")
    usual = opened(folder, tmp_path / "out", labeled="3")
    write(folder / "train.txt", "\n".join(form.format("", f"{number:04d}") for number in range(8)))
    data = opened(folder, tmp_path / "out", labeled="3")
    assert {*data.labeled, *data.unlabeled} == {*usual.labeled, *usual.unlabeled}
    checking.check(data)


def test_what_file_managers_leave_among_sbds_masks_is_no_image(tmp_path):
    folder = write_voc(tmp_path / "voc", train=6, augmented=3)
    for name in ("._2008_000001.png", "Thumbs.db", ".DS_Store"):
        (folder / "SegmentationClassAug" / name).write_bytes(b"junk")
    data = opened(folder, tmp_path / "out", labeled="2")
    assert len(data.labeled + data.unlabeled) == 9
    checking.check(data)
