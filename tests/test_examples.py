"""The trainer's networks and views: published weights and sizes, and pixels that stay where they are."""

import random
import re

import pytest
import torch
import trainer_data  # noqa: F401 (puts examples on the path)

backbones = pytest.importorskip("segmentation.backbones")
batchnorm = pytest.importorskip("segmentation.batchnorm")
networks = pytest.importorskip("segmentation.networks")
recipes = pytest.importorskip("segmentation.recipe")
transforms = pytest.importorskip("segmentation.transforms")


def build(num_classes, **settings):
    return networks.SegmentationNetwork(num_classes, recipes.Network(**settings)).eval()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_backbone_computes_what_the_published_one_does():
    published = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(torch.load(backbones.lite0_weights(), map_location="cpu", weights_only=True))
    network = build(11, encoder_depth=5)
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        x = published._swish(published._bn0(published._conv_stem((255 * image - 127) / 128)))
        taps = []
        for block in published._blocks:
            x = block(x)
            taps.append(x)
        levels = network.encoder((image - network.mean) / network.std)
    # Beyond 1/8 the encoder is dilated; up to there both see the same pixels.
    for level, tap in ((levels[2], taps[2]), (levels[3], taps[4])):
        torch.testing.assert_close(level, tap, rtol=1e-4, atol=1e-4)


def test_deeplabv3plus_has_the_published_parts():
    network = build(19, backbone="resnet101", weights="none")
    assert count(network.encoder) == 44_549_160 - 1000 * 2049  # ResNet-101 less its classifier
    with torch.no_grad():
        out = network(torch.rand(2, 3, 61, 90))
    assert out.logits.shape == (2, 19, 16, 23)
    assert out.embedding.shape == (2, 256, 16, 23)
    assert out.middle.shape == (2, 256 + 512 + 1024, 16, 23)
    # Separable convolutions (3x3 a channel, then 1x1) and BatchNorm in pyramid and decoder, as in the paper's Sec. 3.1
    separable = lambda inside, outside: 9 * inside + inside * outside + 2 * outside  # noqa: E731
    plain = lambda inside, outside: inside * outside + 2 * outside  # noqa: E731
    pyramid = 2 * plain(2048, 256) + 3 * separable(2048, 256) + plain(5 * 256, 256) + separable(256, 256)
    assert count(network.decoder) == pyramid + plain(256, 48) + separable(256 + 48, 256)


def test_deeplabv2_has_the_published_parts():
    network = build(21, architecture="deeplabv2", backbone="tu-resnet101", weights="none", atrous_rates=(6, 12, 18, 24))
    assert count(network.encoder) == 44_549_160 - 1000 * 2049
    assert count(network.classifier) == 4 * (9 * 2048 * 21 + 21)  # four branches of 3x3
    assert [branch.dilation[0] for branch in network.classifier.branches] == [6, 12, 18, 24]
    with torch.no_grad():
        out = network(torch.rand(1, 3, 65, 97))
    assert out.logits.shape == (1, 21, 9, 13)  # stride 8
    assert out.embedding.shape == (1, 256, 9, 13)


@pytest.mark.parametrize(("size", "width", "millions"), [("mit_b0", 256, 3.7), ("mit_b2", 768, 27.4)])
def test_segformer_has_the_published_size(size, width, millions):
    # Xie et al. 2021, Table 1, for 150 classes: B0 3.8 M, B2 27.5 M; 19 classes take 131 * (width + 1) fewer
    network = build(19, architecture="segformer", backbone=size, weights="none", decoder_channels=width)
    assert (count(network) - count(network.embedder)) / 1e6 == pytest.approx(millions, abs=0.06)
    with torch.no_grad():
        out = network(torch.rand(1, 3, 61, 90))
    assert out.logits.shape == (1, 19, 16, 23)


def test_a_file_that_does_not_fill_the_encoder_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=re.escape("part.pt lacks")):
        build(5, backbone="resnet18", weights=str(tmp_path / "part.pt"))
    whole = build(5, backbone="resnet18", weights="none").encoder.state_dict()
    torch.save(whole, tmp_path / "whole.pt")
    again = build(5, backbone="resnet18", weights=str(tmp_path / "whole.pt")).encoder.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def draws(size=(32, 48), images=4, **odds):
    odds = {"jitter": 1.0, "grey": 0.0, "blurred": 1.0, "mixed": 1.0} | odds
    return torch.stack([transforms.draw_strong_view(random.Random(n), size, **odds) for n in range(images)])


def test_a_weak_view_moves_image_and_labels_together():
    labels = torch.arange(48, dtype=torch.uint8).repeat(40, 1)
    image = (labels * 5)[None].repeat(3, 1, 1)
    view = transforms.WeakView((32, 32), (0.5, 2.0))
    sizes = set()
    for number in range(40):
        seen, seen_labels, _ = view(image, labels, random.Random(number))
        assert seen.shape == (3, 32, 32)
        inside = seen_labels != 255
        sizes.add(int(inside.sum()))
        error = (seen[0].float() / 5 - seen_labels.float()).abs()[inside]
        assert error.quantile(0.9) < 1.1
        assert (seen[0][~inside] == transforms.GREY).all()
    assert len(sizes) > 3  # some are padded, and not all alike


def test_a_strong_view_moves_no_pixel():
    images = torch.rand(4, 3, 32, 48) * 0.5 + 0.3
    images[:, :, :, 24:] *= 0.05  # dark right half
    strong = transforms.strong_view(images, draws(blur=0.2))
    assert strong.shape == images.shape
    assert ((strong >= 0) & (strong <= 1)).all()
    assert (strong[..., :20].mean((1, 2, 3)) > strong[..., 28:].mean((1, 2, 3))).all()


def test_a_strong_view_that_draws_nothing_changes_nothing():
    images = torch.rand(3, 3, 16, 24)
    strong = transforms.strong_view(images, draws((16, 24), 3, jitter=0, blurred=0))
    torch.testing.assert_close(strong, images, atol=1e-5, rtol=0)


def test_views_in_batch_are_those_of_each_image_alone():
    images, drawn = torch.rand(4, 3, 32, 48), draws(grey=0.5)
    together = transforms.strong_view(images, drawn)
    for number in range(4):
        alone = transforms.strong_view(images[number, None], drawn[number, None])
        torch.testing.assert_close(together[number, None], alone, atol=1e-6, rtol=0)
        assert (alone - images[number, None]).abs().max() > 0.05


def test_hue_keeps_luma_and_turns_back():
    images = torch.rand(2, 3, 8, 8)
    turn = transforms._hue_rotation(torch.tensor([0.2, -0.3]))
    turned = (turn @ images.flatten(2)).view_as(images)
    torch.testing.assert_close(transforms._luma(turned), transforms._luma(images), atol=2e-3, rtol=0)
    whole = transforms._hue_rotation(torch.tensor([1.0]))
    torch.testing.assert_close(whole[0], torch.eye(3), atol=1e-5, rtol=0)


def test_a_broad_blur_is_as_broad_as_it_is_drawn():
    image = torch.zeros(1, 3, 101, 101)
    image[..., 50] = 0.5
    drawn = torch.zeros(1, len(transforms.DRAWN))
    drawn[:, :3], drawn[:, transforms.DRAWN.index("sigma")] = 1, 8
    out, offsets = transforms.strong_view(image, drawn, blur=8.0)[0, 0, 50], torch.arange(-50, 51.0)
    assert float((out * offsets**2).sum() / out.sum()) ** 0.5 == pytest.approx(8, rel=0.15)


def test_blur_is_a_gaussian():
    image = torch.zeros(1, 3, 21, 21)
    image[:, :, 10, 10] = 1
    out = transforms._blurred(image, torch.tensor([1.5]))[0, 0]
    offsets = torch.arange(-10, 11.0)
    expected = torch.exp(-(offsets**2) / 4.5) * (offsets.abs() <= 4)
    expected = torch.outer(expected, expected) / expected.sum() ** 2
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_mixing_moves_pixels_with_their_labels(kind):
    labels = torch.randint(0, 3, (4, 32, 48)) + 3 * torch.arange(4)[:, None, None]
    images = labels[:, None].expand(4, 3, 32, 48).float()
    maps = labels.float() / 12, images.clone()
    mixed, mixed_labels, mixed_confidence, mixed_channels = transforms.mix(images, draws(), labels, *maps, kind=kind)
    changed = (mixed_labels != labels).flatten(1).float().mean(1)
    assert ((changed > 0) & (changed < 0.9)).all()
    assert torch.equal(mixed[:, 0], mixed_labels.float())
    assert torch.equal(mixed_confidence, mixed_labels.float() / 12)
    assert torch.equal(mixed_channels, mixed)
    assert torch.equal(mixed_labels[0] // 3, torch.where(mixed_labels[0] == labels[0], 0, 1))  # from its partner


def test_pairs_are_mixed_alike_however_the_batch_is_split():
    images, labels, drawn = torch.rand(4, 3, 32, 48), torch.randint(0, 5, (4, 32, 48)), draws()
    together = transforms.mix(images, drawn, labels)
    halves = [transforms.mix(images[half], drawn[half], labels[half]) for half in (slice(0, 2), slice(2, 4))]
    for whole, first, second in zip(together, *halves, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))
