"""The integrations run on embedded data and mend labels: each of them fixes more than it breaks, by the truth."""

import difflib
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples/integrations"

# Not ours: what the frameworks say of each other's newest releases, and Lightning of data kept in memory
pytestmark = pytest.mark.filterwarnings("ignore")


def example(name, *packages, monkeypatch):
    """A script of the folder as a module; skipped where a package that it shows is not installed."""
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


def test_a_plain_loop_around_segmentation_models_pytorch(monkeypatch):
    counts = example("smp_loop", "segmentation_models_pytorch", monkeypatch=monkeypatch).main(steps=2)
    assert counts.fixed > 1.3 * counts.broken
    assert counts.fixed > 500


def test_a_segformer_with_hugging_faces_trainer(monkeypatch):
    module = example("segformer_trainer", "transformers", "accelerate", monkeypatch=monkeypatch)
    counts = module.main(steps=3)
    assert counts.fixed > 1.3 * counts.broken
    assert counts.fixed > 1000


def test_the_features_of_the_segformer_are_what_its_classifier_is_given(monkeypatch):
    module = example("segformer_trainer", "transformers", "accelerate", monkeypatch=monkeypatch)
    import torch

    config = module.SegformerConfig(num_labels=3, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=24)
    config.num_attention_heads = [1, 2, 2, 2]
    model = module.SegformerWithFeatures(config).eval()
    with torch.no_grad():
        features, logits = model.features_and_logits(torch.rand(2, 3, 32, 64))
        assert features.shape == (2, 24, 8, 16)
        torch.testing.assert_close(model.decode_head.classifier(features), logits)
    assert not model.decode_head.classifier._forward_pre_hooks


def test_a_lightning_module_and_its_callback(monkeypatch):
    counts = example("lightning_module", "lightning", monkeypatch=monkeypatch).main(steps=42)
    assert list(counts) == [10, 20, 30, 40]
    assert counts[30].fixed > 1.3 * counts[30].broken


def test_a_lightning_checkpoint_holds_the_bank_and_the_teacher(monkeypatch):
    module = example("lightning_module", "lightning", monkeypatch=monkeypatch)
    names = set(module.SelfTraining().state_dict())
    assert {"anchors.features", "anchors.priority", "teacher.module.head.weight", "network.head.weight"} <= names


def test_a_weak_to_strong_trainer_and_the_lines_that_correct_its_labels(monkeypatch):
    plain = example("weak_to_strong", "sklearn", monkeypatch=monkeypatch).main(steps=2)
    assert all(counts.changed == 0 for counts in plain.values())
    counts = example("weak_to_strong_corrected", monkeypatch=monkeypatch).main(steps=2)
    assert counts[40].fixed > 1.1 * counts[40].broken


def test_the_difference_that_the_page_shows_is_that_of_the_two_files():
    names = ["weak_to_strong.py", "weak_to_strong_corrected.py"]
    plain, corrected = ((FOLDER / name).read_text(encoding="utf-8").splitlines(keepends=True) for name in names)
    lines = list(difflib.unified_diff(plain, corrected, *names, n=1))
    assert (FOLDER / "weak_to_strong.diff").read_text(encoding="utf-8") == "".join(lines)
    new, replaced = (sum(line[0] == mark and len(line.strip()) > 1 for line in lines[2:]) for mark in "+-")
    page = (FOLDER.parents[1] / "docs/integrations/weak_to_strong.md").read_text(encoding="utf-8")
    assert f"replaces {replaced} lines by {new}" in page


def test_noisy_nodes_of_a_torch_geometric_graph(monkeypatch):
    wrong, sure = example("pyg_noisy_nodes", "torch_geometric", "sklearn", monkeypatch=monkeypatch).main()
    assert wrong["as given"] < 0.65
    assert wrong["graphcorrect, Data"] > 0.97
    assert wrong["graphcorrect, Batch of 3"] > 0.95
    # and what the page says of the others
    assert wrong["LabelPropagation"] > 0.96
    assert sure["CorrectAndSmooth"] > sure["graphcorrect, AnchorBank"] > sure["the network's opinion"]


def test_a_scikit_learn_classifier_learns_more_from_mended_labels(monkeypatch):
    results = example("sklearn_noisy_labels", "sklearn", monkeypatch=monkeypatch).main()
    (given, from_given), (ours, from_ours), (theirs, _) = results.values()
    assert given < 0.65
    assert ours > theirs + 0.01
    assert from_ours > from_given + 0.01


def test_every_integration_is_tested_and_has_a_page():
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"scenes"}
    tests = Path(__file__).read_text(encoding="utf-8")
    pages = "\n".join(
        path.read_text(encoding="utf-8") for path in (FOLDER.parents[1] / "docs/integrations").glob("*.md")
    )
    for script in scripts:
        assert f'"{script}"' in tests, script
        assert f"examples/integrations/{script}.py" in pages, script
