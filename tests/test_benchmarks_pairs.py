"""Tables of a training study: pairs, the share of the gap that was won, students in use."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks are not at hand", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))
evidence_pairs = pytest.importorskip("_evidence_pairs")


def results_of(scores):
    """Results of a training study by seed and method, as the trainer's JSON has them."""
    return [
        {"seed": seed, "method": method, "student_miou": score / 100}
        for method, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]


def test_the_share_of_the_gap_is_paired_by_seed():
    scores = {"supervised": [40, 50], "fixmatch": [42, 50], "fixmatch+graphs": [45, 53], "true_labels": [50, 60]}
    test = evidence_pairs.students(results_of(scores))
    assert evidence_pairs.gap_share(test, "fixmatch+graphs") == "40 % (30 to 50)"
    assert evidence_pairs.gap_share(test, "fixmatch") == "10 % (0 to 20)"
    assert evidence_pairs.gap_share(test, "supervised") == evidence_pairs.gap_share(test, "true_labels") == ""
    del test[1, "true_labels"]  # of one seed then
    assert evidence_pairs.gap_share(test, "fixmatch+graphs") == "50 %"
    nothing = {"supervised": [40], "mllc": [41], "true_labels": [39]}
    assert evidence_pairs.gap_share(evidence_pairs.students(results_of(nothing)), "mllc") == ""


def test_a_pair_is_a_row_with_its_least_gain():
    scores = {"supervised": [40, 50], "fixmatch": [42, 50], "fixmatch+graphs": [45, 52], "mllc": [44, 44]}
    table = evidence_pairs.pairs(results_of(scores))
    assert "| fixmatch+graphs | 46.0 ± 5.7 | 48.5 ± 4.9 | +2.5 ± 0.7 | +2.0 |\n" in table
    assert len(table.splitlines()) == 3  # mllc has no twin, and nothing is its own
    with_bound = evidence_pairs.pairs(results_of(scores | {"true_labels": [50, 60]}))
    assert "| +2.0 | 35 % (20 to 50) |\n" in with_bound


def test_students_in_use_are_means_over_seeds():
    ways = {"plain": {"miou": 0.4, "seconds_per_image": 0.1}, "corrected": {"miou": 0.5, "seconds_per_image": 0.35}}
    results = [{"seed": 0, "method": "fixmatch", "student_miou": 0.4, "deployed": ways}, *results_of({"mllc": [40]})]
    table = evidence_pairs.deployed(results)
    assert "| fixmatch | 40.0 | 0.10 | 50.0 | 0.35 |\n" in table
    assert evidence_pairs.deployed(results[1:]) == ""
