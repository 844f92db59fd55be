"""A student in use: plain, corrected, augmented, and both; scores are those of the parts that it is made of."""

import json
from types import SimpleNamespace

import pytest
import torch
from trainer_data import tiny, write_camvid

deployment = pytest.importorskip("segmentation.deployment")
engine = pytest.importorskip("segmentation.engine")
evaluation = pytest.importorskip("segmentation.evaluation")
models = pytest.importorskip("segmentation.model")
state = pytest.importorskip("segmentation.state")

WAYS = [deployment.PLAIN, deployment.CORRECTED, deployment.AUGMENTED, deployment.ALL]


@pytest.mark.slow
def test_every_method_is_scored_as_it_would_be_used(tmp_path, capsys):
    recipe = tiny(
        "camvid", methods=("supervised", "fixmatch+anchors+graphs"), evaluation__deployed=True, data__held_out=0,
        data__folder=str(write_camvid(tmp_path / "camvid")), data__labeled="3",
    )  # fmt: skip
    results = engine.run(recipe, tmp_path / "out")
    for method in recipe.methods:
        found = results[method]["deployed"]
        assert list(found) == WAYS
        assert found["plain"]["miou"] == results[method]["student_miou"]
        assert all(0 <= found[way]["miou"] <= 1 and found[way]["seconds_per_image"] > 0 for way in WAYS)
        assert found["corrected"]["miou"] != found["plain"]["miou"]
    kept = json.loads((tmp_path / "out/results.json").read_text())["methods"]["supervised"]["deployed"]
    assert list(kept) == WAYS
    printed = capsys.readouterr().out
    assert "The same students in use: mIoU test, milliseconds an image" in printed
    assert f"{100 * found['augmented+corrected']['miou']:.2f}" in printed


@pytest.mark.parametrize("size", [(16, 24), (4, 6)])
def test_an_answer_with_other_probabilities_says_those(size):
    said = torch.rand(2, 3, 16, 24).softmax(1)
    output = models.NetworkOutput(torch.zeros(2, 3, *size), torch.rand(2, 8, *size), None)
    got = deployment.saying(output, said)
    assert got.logits.shape == (2, 3, *size)
    torch.testing.assert_close(got.logits.softmax(1).mean((2, 3)), said.mean((2, 3)), atol=2e-2, rtol=0)
    if size == (16, 24):
        torch.testing.assert_close(got.logits.softmax(1), said)
    assert got.embedding is output.embedding


@pytest.mark.parametrize(("of_this_world", "trained_so"), [(True, True), (True, False), (False, True)])
def test_a_student_is_shown_mirrored_images_only_if_training_mirrors_them(monkeypatch, of_this_world, trained_so):
    asked, images = [], torch.rand(1, 3, 8, 8)
    monkeypatch.setattr(evaluation, "predict", lambda model, images, how, crop: asked.append(how) or images)
    monkeypatch.setattr(evaluation, "score", lambda predict, *_: {} if predict(images) is not None else {})
    monkeypatch.setattr(deployment, "saying", lambda output, said: said)
    corrector = SimpleNamespace(probabilities=lambda output, images, guided: images)
    data = SimpleNamespace(flip=of_this_world, test=[], class_names=[])
    run = SimpleNamespace(recipe=tiny(views__flip=trained_so), data=data, crop=(8, 8), device=torch.device("cpu"))
    deployment.measure(Answers(), corrector, run)
    plain, *augmented = asked
    assert not plain.flip
    assert {how.flip for how in augmented} == {of_this_world and trained_so}


class Answers(torch.nn.Module):
    """A model that has nothing to say."""

    def forward(self, images):
        return images, None
