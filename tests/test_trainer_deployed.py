"""A student in use: plain, corrected, augmented, and both; scores are those of the parts that it is made of."""

import json

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
