"""Features for `label_issues` by an encoder, which stays as it is."""

import pytest
import torch
from test_label_issues import scene
from torch import nn

from graphcorrect import label_issues


def test_an_encoder_gives_the_features_that_it_would_have_given():
    labels, probabilities, images, _ = scene()
    labels[0, 3:9, 3:9] = 1
    encoder = nn.Conv2d(3, 5, 3, padding=1, stride=2)
    with torch.no_grad():
        features = torch.cat([encoder(image[None]) for image in images])
    ways = features, encoder, lambda image: encoder(image), lambda: iter(features)
    one, *others = (label_issues(labels, probabilities, images, features=each) for each in ways)
    for other in others:
        assert torch.equal(one.pixel_scores, other.pixel_scores)
    with pytest.raises(ValueError, match="expected `images` that the encoder"):
        label_issues(labels, probabilities, features=encoder)
    rows = nn.Sequential(encoder, nn.Flatten(1))
    with pytest.raises(ValueError, match=r"one map \(1, D, h, w\), got \(1, 900\) \(image 0\)"):
        label_issues(labels, probabilities, images, features=rows).issues  # noqa: B018


def test_an_encoder_in_training_looks_as_in_evaluation_and_is_left_as_it_was():
    labels, probabilities, images, _ = scene()
    encoder = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, stride=2), nn.BatchNorm2d(5), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = label_issues(labels, probabilities, images, features=encoder).pixel_scores
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(label_issues(labels, probabilities, images, features=encoder.eval()).pixel_scores, found)


def test_images_take_the_dtype_of_the_encoder():
    labels, probabilities, images, _ = scene()
    encoder = nn.Conv2d(3, 5, 3, padding=1, stride=2)
    found = label_issues(labels, probabilities, images, features=encoder).pixel_scores
    assert torch.equal(label_issues(labels, probabilities, images.double(), features=encoder).pixel_scores, found)


def test_an_encoder_that_works_in_place_leaves_images_as_they_were():
    layer = torch.nn.Conv2d(3, 8, 8, stride=8)
    images, labels = torch.rand(4, 3, 16, 16), torch.randint(2, (4, 16, 16))
    given, probabilities = images.clone(), torch.full((4, 2, 16, 16), 0.5)
    found = label_issues(labels, probabilities, given, features=lambda image: layer(image.sub_(0.45).div_(0.22)))
    expected = label_issues(labels, probabilities, images, features=lambda image: layer((image - 0.45) / 0.22))
    torch.testing.assert_close(found.pixel_scores, expected.pixel_scores)
    assert torch.equal(given, images)
