"""Data sets in their true layouts and lists as they are published; every fault is found before the first step."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import tiny, write_camvid, write_cityscapes, write_voc

from graphcorrect.files.stored_masks import voc_colors

checking = pytest.importorskip("segmentation.checking")
cityscapes = pytest.importorskip("segmentation.cityscapes")
datasets = pytest.importorskip("segmentation.datasets")
engine = pytest.importorskip("segmentation.engine")
layouts = pytest.importorskip("segmentation.layouts")
loading = pytest.importorskip("segmentation.loading")
recipes = pytest.importorskip("segmentation.recipe")
running = pytest.importorskip("segmentation.running")


def opened(folder, out, **settings):
    return layouts.open_data(recipes.Data(folder=str(folder), **settings), 0, out)


def names(samples):
    return [sample.image.name for sample in samples]


def test_embedded_scenes_are_written_in_vocs_layout_and_read_by_index(tmp_path):
    data = layouts.open_data(recipes.Data(layout="digits", scenes=(8, 8), labeled="2"), 3, tmp_path)
    checking.check(data)
    assert (len(data.labeled), len(data.unlabeled), len(data.test)) == (2, 6, 8)
    assert len(data.class_names) == 11
    assert not data.flip
    seen = torch.cat([datasets.read_mask(sample.mask).unique() for sample in data.labeled + data.unlabeled]).unique()
    assert set(seen.tolist()) <= {*range(11), 255}
    assert {0, 255} < set(seen.tolist())
    with Image.open(data.test[0].mask) as mask:
        assert mask.mode == "P"


def test_a_drawn_split_is_saved_and_read_back(tmp_path):
    folder = write_voc(tmp_path / "voc")
    drawn = opened(folder, tmp_path, labeled="2", held_out=2)
    again = opened(folder, tmp_path / "other", labeled=str(tmp_path / "labeled.txt"))
    assert again.labeled == drawn.labeled
    assert again.unlabeled == drawn.unlabeled
    assert len(drawn.held_out) == 2
    assert not set(drawn.held_out) & set(drawn.labeled + drawn.unlabeled)


def test_voc_masks_are_read_by_index_and_its_own_go_before_sbds(tmp_path):
    folder = write_voc(tmp_path / "voc", train=6, augmented=5)
    own = folder / "SegmentationClass" / "2007_000001.png"
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(folder / "SegmentationClassAug" / "2007_000001.png")
    data = opened(folder, tmp_path, labeled="2")
    assert len(data.labeled + data.unlabeled) == 6 + 5  # train and SBD's, less val
    assert not {*names(data.labeled + data.unlabeled)} & {*names(data.test)}
    by_name = {sample.image.stem: sample.mask for sample in data.labeled + data.unlabeled}
    assert by_name["2007_000001"] == own
    assert by_name["2008_000004"].parent.name == "SegmentationClassAug"
    with Image.open(own) as mask:
        indices = np.array(mask)
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [128, 0, 0]  # aeroplane
    assert np.array_equal(datasets.read_mask(own).numpy(), indices)
    assert (indices == 255).any()
    checking.check(data)


def test_sbds_mat_files_are_read(tmp_path):
    from scipy.io import savemat

    folder = write_voc(tmp_path / "voc", train=3, augmented=2)
    mask = np.arange(40 * 48).reshape(40, 48).astype(np.uint8) % 21
    (folder / "cls").mkdir()
    for number in range(2):
        (folder / "SegmentationClassAug" / f"2008_{number:06d}.png").unlink()
        struct = {"Segmentation": mask, "Boundaries": np.zeros(3), "CategoriesPresent": np.arange(3)}
        savemat(folder / "cls" / f"2008_{number:06d}.mat", {"GTcls": struct})
    data = opened(folder, tmp_path, labeled="2")
    samples = {sample.image.stem: sample for sample in data.labeled + data.unlabeled}
    assert len(samples) == 5
    assert np.array_equal(datasets.read_labels(samples["2008_000001"]).numpy(), mask)
    checking.check(data)


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    folder = write_cityscapes(tmp_path / "cityscapes")
    data = opened(folder, tmp_path, labeled="1/4")
    assert data.layout == "cityscapes"
    assert (len(data.labeled), len(data.unlabeled), len(data.test)) == (2, 6, 3)
    assert data.class_names[0] == "road"
    assert data.class_names[18] == "bicycle"
    sample = data.labeled[0]
    raw, labels = datasets.read_mask(sample.mask), datasets.read_labels(sample)
    # cityscapesScripts' table, the ids that are trained, in order of their train id
    trained = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for label_id in raw.unique().tolist():
        expected = trained.index(label_id) if label_id in trained else 255
        assert (labels[raw == label_id] == expected).all()
    kept = labels != 255
    assert torch.equal(cityscapes.to_label_ids(labels)[kept], raw[kept])
    assert (cityscapes.to_label_ids(labels)[~kept] == 0).all()
    checking.check(data)


@pytest.mark.parametrize("final", ["", "\n", " \n\n"])
@pytest.mark.parametrize("form", ["pairs", "images"])
def test_published_cityscapes_lists_are_read(tmp_path, form, final):
    folder = write_cityscapes(tmp_path / "cityscapes")
    images = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("leftImg8bit/train/*/*.png"))]
    if form == "pairs":  # with train ids that only a script would have made
        mask = [line.replace("leftImg8bit/", "gtFine/", 1) for line in images]
        mask = [line.replace("_leftImg8bit", "_gtFine_labelTrainIds") for line in mask]
        images = [f"{image} {mask}" for image, mask in zip(images, mask, strict=True)]
    split = tmp_path / "splits"
    split.mkdir()
    (split / "labeled.txt").write_text("\n".join(images[:3]) + final)
    (split / "unlabeled.txt").write_text("\n".join(images[3:]) + final)
    data = opened(folder, tmp_path, labeled=str(split / "labeled.txt"))
    assert (len(data.labeled), len(data.unlabeled)) == (3, 5)
    assert all(sample.mask.exists() for sample in data.labeled + data.unlabeled)
    checking.check(data)


@pytest.mark.parametrize("form", ["JPEGImages/{0}.jpg SegmentationClass/{0}.png", "{0}"])
def test_published_voc_lists_are_read(tmp_path, form):
    folder = write_voc(tmp_path / "voc", train=4, augmented=4)
    stems = [f"2007_{number:06d}" for number in range(4)] + [f"2008_{number:06d}" for number in range(4)]
    lines = [form.format(stem) for stem in stems]
    (tmp_path / "labeled.txt").write_text("\n".join(lines[2:5]))
    (tmp_path / "unlabeled.txt").write_text("\n".join(lines[:2] + lines[5:]))
    (tmp_path / "val.txt").write_text(form.format("2007_000005"))
    data = opened(folder, tmp_path / "out", labeled=str(tmp_path / "labeled.txt"), test=str(tmp_path / "val.txt"))
    assert names(data.labeled) == [f"{stem}.jpg" for stem in stems[2:5]]
    assert len(data.unlabeled) == 5
    assert names(data.test) == ["2007_000005.jpg"]
    checking.check(data)


def test_camvid_is_read_with_its_classes(tmp_path):
    data = opened(write_camvid(tmp_path / "camvid"), tmp_path, labeled="3")
    assert (len(data.labeled), len(data.unlabeled), len(data.test)) == (3, 5, 3)
    assert data.class_names[10] == "class 10"
    assert len(data.class_names) == 11
    checking.check(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled": "1"}, "from 2 to 7"),
        ({"labeled": "8"}, "from 2 to 7"),
        ({"labeled": "2/1"}, "from 2 to 7"),
        ({"labeled": "no.txt"}, "`data.labeled` to be a list of images, a number or a share"),
        ({"test": "no.txt"}, "`data.test` to be a list of images, got"),
        ({"held_out": 5}, "`data.held_out` from 0 to 4"),
        ({"layout": "camvid"}, "here camvid"),
        ({"classes": "no.txt"}, "`data.classes` to be a file"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        opened(write_voc(tmp_path / "voc"), tmp_path, **settings)


def test_every_fault_of_a_data_set_is_listed_at_once(tmp_path):
    data = opened(write_voc(tmp_path / "voc"), tmp_path, labeled="4")
    gone, wrong_id, wrong_size, colors = (sample.mask for sample in data.labeled)
    gone.unlink()
    mask = np.array(Image.open(wrong_id))
    mask[0, 0] = 37
    Image.fromarray(mask).save(wrong_id)
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(wrong_size)
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(colors)
    cut, text, away = (sample.image for sample in data.test)
    cut.write_bytes(cut.read_bytes()[:300])
    text.write_text("not a picture")
    away.unlink()
    with pytest.raises(ValueError, match="7 fault") as caught:
        checking.check(data)
    for fault in (
        f"{gone}: missing",
        f"{wrong_id}: ids [37], expected 0 to 20 or 255",
        f"{wrong_size}: is (5, 6), its image is (40, 48)",
        f"{colors}: unreadable (expected a mask of one 8-bit channel",
        f"{cut}: unreadable",
        f"{text}: unreadable",
        f"{away}: missing",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_an_id_of_37_is_found_in_cityscapes(tmp_path, kind):
    folder = write_cityscapes(tmp_path / "cityscapes")
    mask = next(folder.glob("gtFine/train/*/*.png"))
    image = mask.as_posix().replace("gtFine/", "leftImg8bit/").replace("_gtFine_labelIds", "_leftImg8bit")
    labels = np.zeros((48, 96), np.uint8)
    labels[3, 4] = 37
    mask = mask.with_name(mask.name.replace("labelIds", kind))
    Image.fromarray(labels).save(mask)
    faults = checking.look_at(datasets.Sample(image, mask), 19, needs_mask=True).faults
    assert faults == [f"{mask}: ids [37], expected 0 to {33 if kind == 'labelIds' else 18} or 255"]


def test_an_image_must_not_be_in_two_roles(tmp_path):
    data = opened(write_voc(tmp_path / "voc"), tmp_path, labeled="4")
    leaking = data._replace(test=[*data.test, data.labeled[0]], unlabeled=[*data.unlabeled, data.labeled[1]])
    with pytest.raises(ValueError, match="2 fault") as caught:
        checking.check(leaking)
    assert "is among the training images and the test images" in str(caught.value)
    assert "is among the labeled images and the unlabeled ones" in str(caught.value)


def positions(first, last, batch=4, ranks=1):
    return [
        list(loading.PositionSampler(6, batch, first, last, seed=5, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]


def test_a_stream_can_be_entered_anywhere_and_shared():
    (whole,) = positions(0, 9)
    assert [position for position, _ in whole] == list(range(36))
    for epoch in range(6):  # every image once an epoch, in another order
        assert sorted(index for _, index in whole[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert [index for _, index in whole[:6]] != [index for _, index in whole[6:12]]
    assert positions(4, 9) == [whole[16:]]
    first, second = positions(0, 9, ranks=2)
    joined = [pair for step in range(9) for part in (first, second) for pair in part[2 * step : 2 * step + 2]]
    assert joined == whole


def test_views_depend_on_the_position_and_not_on_the_worker(tmp_path):
    data = opened(write_voc(tmp_path / "voc"), tmp_path, labeled="4")

    def views(first, workers):
        recipe = tiny(running__workers=workers, views__mixed=0.7)
        return list(loading.batches(data.unlabeled, recipe, (32, 32), first, 5, flip=True, unlabeled=True))

    alone, shared, later = views(0, 0), views(0, 2), views(3, 0)
    random.random()
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for one, other in zip(alone[3:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(alone[0].images, alone[1].images)
    assert {*torch.cat([views.labels for views in alone]).unique().tolist()} <= {0, 255}  # true labels stay on disk


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    data = opened(write_voc(tmp_path / "voc"), tmp_path, labeled="4")
    recipe = tiny(schedule__labeled_batch=6, schedule__accumulate=2)
    with pytest.raises(ValueError, match="multiple of 2 parts x 2 processes, got 6"):
        loading.batches(data.labeled, recipe, (32, 32), 0, 1, flip=True, unlabeled=False, ranks=2)


@pytest.mark.parametrize(("batch", "parts", "ranks"), [(16, 1, 16), (6, 1, 2), (6, 2, 1)])
def test_a_batch_that_leaves_an_unlabeled_image_without_a_partner_is_refused(batch, parts, ranks):
    given = {"schedule__unlabeled_batch": batch, "schedule__accumulate": parts, "schedule__labeled_batch": 4}
    words = f"`schedule.unlabeled_batch` to be a multiple of {parts} parts x {ranks} processes x 2 images"
    with pytest.raises(ValueError, match=words):
        loading.share_of(tiny(**given), ranks, unlabeled=True)
    apart = tiny(**given, views__mix="none")
    assert loading.share_of(apart, ranks, unlabeled=True) == batch // parts // ranks
    assert loading.share_of(tiny(schedule__unlabeled_batch=32), 16, unlabeled=True) == 2
    assert loading.share_of(tiny(schedule__unlabeled_batch=3), 1, unlabeled=True) == 3  # as it is, alone


def test_images_without_a_partner_are_refused_before_the_warm_up(tmp_path):
    batches = {"schedule__labeled_batch": 4, "schedule__unlabeled_batch": 6, "schedule__accumulate": 2}
    recipe = tiny(methods=("supervised", "fixmatch"), **batches)
    with pytest.raises(ValueError, match=r"`schedule\.unlabeled_batch` .* `views\.mix` cutmix pairs them, got 6"):
        engine.run(recipe, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "crop"),
    [
        ({}, (512, 512)),
        ({"data__resize": (128, 250)}, (128, 240)),
        ({"data__resize": (128, 250), "views__crop": (96, 96)}, (96, 96)),
    ],
)
def test_the_usual_crop_is_no_larger_than_resized_images(tmp_path, settings, crop):
    Image.fromarray(np.zeros((1024, 2048, 3), np.uint8)).save(tmp_path / "large.png")
    recipe = tiny(**{"views__crop": None} | settings)
    assert running.crop_of(recipe, [datasets.Sample(tmp_path / "large.png", None)]) == crop
    assert running.crop_of(recipe, []) == crop  # of a data set that is not at hand


def test_the_palette_is_vocs():
    palette = np.array(voc_colors())
    assert palette[15].tolist() == [192, 128, 128]  # person
    assert palette[255].tolist() == [224, 224, 192]
