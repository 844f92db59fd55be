"""The one call refuses what it is given wrongly, by name, and takes what means the same."""

import copy
import re
import warnings

import pytest
import torch
from small_scenes import CLASSES, SIZE, Levels, fitted_corrector, scenes

from graphcorrect import SegmentationCorrector, guided_upsample

IMAGES, LOGITS = torch.rand(2, 3, *SIZE), torch.randn(2, CLASSES, 9, 12)


@pytest.fixture(scope="module")
def corrector():
    return fitted_corrector()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "timm:resnet1o1"}, r"an encoder of timm, got 'timm:resnet1o1'; did you mean .*timm:resnet101"),
        ({"encoder": "timm:resnet18", "weights": "nowhere.pt"}, "`weights` to be a file, got 'nowhere.pt'"),
        ({"encoder": Levels(), "weights": "a.pt"}, "no `weights` with an `encoder` that is none of timm's"),
        ({"encoder": Levels(), "preset": "best"}, "`preset` to be one of 'quality', 'fast', got 'best'"),
        ({"encoder": Levels(), "num_classes": 1}, "`num_classes` to be at least 2"),
        ({"encoder": Levels(), "bank": {"eps": 0.0}}, r"`eps` in \(0, 1\]"),
        ({"encoder": Levels(), "refiner": {"alpha": 2.0}}, r"`alpha` in \[0, 1\]"),
        ({"encoder": Levels(), "magnifications": []}, "`magnifications` with at least one size"),
        ({"encoder": Levels(), "levels": []}, "`levels` with at least one map, got none"),
        ({"encoder": "timm:resnet18", "levels": []}, "`levels` with at least one map, got none"),
    ],
)
def test_a_wrong_setting_is_refused_when_it_is_made(arguments, message):
    if isinstance(arguments["encoder"], str):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        SegmentationCorrector(**({"num_classes": CLASSES} | arguments))


def test_weights_of_another_network_are_refused(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "resnet.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for name, message in (
        ("resnet.pt", r"of tf_efficientnet_lite0, got \S+resnet.pt, which lacks conv_stem.weight, .* more"),
        ("list.pt", "a state dict, got .* holds a list"),
        ("broken.safetensors", "a state dict of tensors alone, got .*broken.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentationCorrector(2, "timm:tf_efficientnet_lite0", weights=tmp_path / name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES * 255}, ValueError, r"`images` in \[0, 1\], .*; divide by 255"),
        ({"images": (IMAGES - 0.45) / 0.22}, ValueError, r"`images` in \[0, 1\], .*normalized"),
        ({"images": (IMAGES * 255).to(torch.uint8)}, TypeError, "`images` to be floating point, got torch.uint8"),
        ({"images": IMAGES * torch.nan}, ValueError, "`images` to be finite"),
        ({"images": IMAGES[0]}, ValueError, r"`images` of shape \(B, 3, H, W\)"),
        ({"images": IMAGES[..., :8, :8]}, ValueError, "`images` at least as large as `logits`"),
        (
            {"logits": LOGITS.softmax(1)},
            ValueError,
            "`logits`, the scores before the softmax, got rows .* probabilities",
        ),
        ({"logits": None, "probabilities": LOGITS}, ValueError, "`probabilities`, at least 0 .* of logits take the"),
        ({"logits": None, "probabilities": LOGITS.sigmoid()}, ValueError, "with the sum 1 over the classes"),
        ({"logits": None}, ValueError, "`probabilities` or `logits`, got neither"),
        ({"probabilities": LOGITS.softmax(1)}, ValueError, "`probabilities` or `logits`, got both"),
        ({"logits": LOGITS[:, :2]}, ValueError, "`logits` with 3 classes"),
        ({"logits": LOGITS[:, :1]}, ValueError, "got one channel; of a sigmoid p"),
        ({"logits": LOGITS[:1]}, ValueError, "`logits` with 2 images"),
        ({"features": torch.rand(1, 4, 9, 12)}, ValueError, "`features` with 2 images"),
        ({"mask": torch.ones(2, 9, 11, dtype=torch.bool)}, ValueError, r"`mask` of shape \(2, 9, 12\)"),
    ],
)
def test_what_is_given_as_something_else_is_named(corrector, change, error, message):
    arguments = {"images": IMAGES, "logits": LOGITS} | change
    with pytest.raises(error, match=message):
        corrector(arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((IMAGES * 255, torch.zeros(2, *SIZE, dtype=torch.long)), ValueError, "divide by 255"),
        ((IMAGES, torch.full((2, *SIZE), 3)), ValueError, r"`masks` in \[0, 3\) or ignore_index=255, got the values 3"),
        (
            (IMAGES.movedim(1, -1), torch.zeros(2, *SIZE, dtype=torch.long)),
            ValueError,
            r"got .* use .movedim",
        ),
        ((IMAGES, torch.zeros(2, 46, 34, dtype=torch.long)), ValueError, r"`masks` of shape \(34, 46\)"),
        ((IMAGES, torch.zeros(2, *SIZE)), TypeError, "`masks` to hold integer class labels"),
        ((IMAGES,), ValueError, "`masks` beside `images`, got None"),
        (([],), ValueError, "labeled images to `fit`, got none"),
        (([{"image": 1}],), TypeError, "pairs of images and masks, got dict of 1"),
    ],
)
def test_wrong_labeled_images_are_named(given, error, message):
    with pytest.raises(error, match=message):
        SegmentationCorrector(CLASSES, Levels()).fit(*given)


def test_a_corrector_without_labeled_images_says_so():
    with pytest.raises(RuntimeError, match="call fit first"):
        SegmentationCorrector(CLASSES, Levels())(IMAGES, logits=LOGITS)
    with pytest.raises(ValueError, match="`masks` with a labeled pixel"):
        SegmentationCorrector(CLASSES, Levels()).fit(IMAGES, torch.full((2, *SIZE), 255))


def test_fit_takes_all_of_a_list_or_none_of_it(corrector):
    fitted = copy.deepcopy(corrector)
    images, masks = scenes(3)
    wrong = [masks[0], masks[1], torch.full_like(masks[2], CLASSES)]
    with pytest.raises(ValueError, match="masks"):
        fitted.fit(list(images), wrong)
    with pytest.raises(ValueError, match="expected `masks` for 3 images, got 2"):
        fitted.fit(list(images), list(masks[:2]))
    assert torch.equal(fitted.bank_.num_seen, corrector.bank_.num_seen)


def test_a_class_without_labeled_pixels_is_named_once():
    images, masks = scenes(3)
    lacking = SegmentationCorrector(CLASSES, Levels()).fit(images, masks.masked_fill(masks == 1, 255))
    with pytest.warns(UserWarning, match="no labeled pixel of class 1"):
        lacking(images, logits=torch.randn(3, CLASSES, 9, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lacking(images, logits=torch.randn(3, CLASSES, 9, 12))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_precision_are_looked_at_in_the_encoders(corrector, dtype):
    images, logits = scenes(1)[0].to(dtype), torch.randn(1, CLASSES, 9, 12)
    expected = corrector(images.float(), logits=logits).labels
    assert (corrector(images, logits=logits).labels == expected).float().mean() > 0.99


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit, which people's files still are
def test_masks_of_any_integers_and_encoders_of_torchscript_are_taken(corrector):
    images, masks = scenes(4)
    scripted = torch.jit.trace(torch.nn.Conv2d(3, 4, 8, stride=8), images)
    found = SegmentationCorrector(CLASSES, scripted).fit(images, masks.to(torch.uint16))
    assert found(images, logits=torch.randn(4, CLASSES, 9, 12)).labels.shape == masks.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": torch.randn(1, CLASSES, 12, 9)}, "got them transposed, \\(12, 9\\)"),
        ({"logits": torch.full((1, CLASSES, 9, 12), torch.nan)}, "expected `logits` to be finite"),
        ({"logits": torch.randn(1, CLASSES, 9, 12), "features": torch.full((1, 5, 9, 12), torch.nan)}, "`features`"),
    ],
)
def test_what_would_silently_spoil_labels_is_named(corrector, options, message):
    with pytest.raises(ValueError, match=message):
        corrector(scenes(1)[0], **options)


def test_grey_images_are_named_where_the_encoder_takes_none(corrector):
    with pytest.raises(ValueError, match="3 channels .*got 1, which `encoder` does not take"):
        corrector(scenes(1)[0][:, :1], logits=torch.randn(1, CLASSES, 9, 12))


def test_a_saved_corrector_is_given_no_other_settings(corrector, tmp_path):
    pytest.importorskip("huggingface_hub")
    corrector.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected no `position`, as a saved corrector has its own"):
        SegmentationCorrector.from_pretrained(tmp_path, encoder=Levels(), position=2.0)


def test_bytes_are_refused_with_the_division_that_they_need():
    corrector = SegmentationCorrector(2, torch.nn.Conv2d(3, 4, 8, stride=8))
    images, masks = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8), torch.randint(2, (2, 16, 16))
    for call in (
        lambda: corrector.fit(images, masks),
        lambda: corrector.fit(images / 255, masks)(images, logits=torch.randn(2, 2, 4, 4)),
        lambda: guided_upsample(torch.full((2, 2, 4, 4), 0.5), images),
    ):
        with pytest.raises(TypeError, match=r"use `images / 255`"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bank": {"strenght": 1}}, "`bank` of arguments of AnchorBank, got 'strenght'; did you mean 'strength'?"),
        ({"refiner": {"rounds": 1}}, "`refiner` of arguments of DualGraphRefiner, got 'rounds'; did you mean 'num_rou"),
        ({"bank": {"num_classes": 3}}, "`bank` of arguments of AnchorBank, got 'num_classes'; "),
        ({"refiner": {0: 3}}, "got 0; it takes num_rounds, num_neighbors, "),
    ],
)
def test_a_setting_of_bank_or_refiner_that_is_none_is_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SegmentationCorrector(CLASSES, Levels(), **options)
