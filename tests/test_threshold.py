"""DynamicThreshold is Eq. 9: the rarer a confident class, the lower its threshold."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import probabilities_strategy, random_logits

from graphcorrect.threshold import DynamicThreshold


def batch(*shape, seed=1):
    return random_logits(*shape, seed=seed, scale=4.0).softmax(-1)


@given(probabilities_strategy(), st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]))
def test_thresholds_are_equation_9(probabilities, sigma):
    threshold = DynamicThreshold(probabilities.shape[1], sigma)(probabilities)
    torch.testing.assert_close(threshold, reference.eq9_thresholds(probabilities, sigma), rtol=1e-10, atol=1e-10)


@given(probabilities_strategy(), st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]))
def test_a_node_is_confident_where_it_reaches_the_threshold_of_its_class(probabilities, sigma):
    layer = DynamicThreshold(probabilities.shape[1], sigma)
    expected = reference.eq10_confident(probabilities, reference.eq9_thresholds(probabilities, sigma))
    assert torch.equal(layer.is_confident(probabilities), expected)


def test_counts_are_taken_over_the_whole_batch():
    probabilities = batch(3, 40, 4)
    threshold = DynamicThreshold(4, 0.8)(probabilities)
    torch.testing.assert_close(threshold, reference.eq9_thresholds(probabilities, 0.8), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(threshold, reference.eq9_thresholds(probabilities[0], 0.8))


def test_counts_outlive_the_inference_mode_that_they_were_made_in():
    sure = torch.tensor([[0.97, 0.03], [0.99, 0.01], [0.01, 0.99]], dtype=torch.float64)
    with torch.inference_mode():
        layer = DynamicThreshold(2, accumulate=True).double()
        layer.update(sure)
    layer.update(sure[:1])
    assert layer.counts.tolist() == [3, 1]
    layer.load_state_dict(DynamicThreshold(2).state_dict())
    assert layer.counts.tolist() == [0, 0]


def test_worked_by_hand():
    sure, unsure = [0.97, 0.02, 0.01], [0.5, 0.3, 0.2]
    rows = [sure] * 4 + [sure[::-1]] * 1 + [unsure] * 5
    layer = DynamicThreshold(3, 0.95)
    torch.testing.assert_close(layer(torch.tensor(rows)), torch.tensor([0.95, 0.0, 0.95 / 4]))
    # [0.5, 0.3, 0.2] is of class 0, which asks for 0.95
    assert layer.is_confident(torch.tensor(rows)).tolist() == [True] * 5 + [False] * 5


def test_if_nobody_is_confident_every_class_asks_for_sigma():
    torch.testing.assert_close(DynamicThreshold(3)(torch.full((8, 3), 1 / 3)), torch.full((3,), 0.95))


def test_exactly_sigma_does_not_count():
    rows = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.125, 0.875]])
    torch.testing.assert_close(DynamicThreshold(2, 0.75)(rows), torch.tensor([0.0, 0.75]))


def test_exactly_the_threshold_is_confident():
    rows = torch.tensor([[0.75, 0.25], [0.5, 0.5]])  # nobody is above sigma, so both classes ask for sigma
    assert DynamicThreshold(2, 0.75).is_confident(rows).tolist() == [True, False]


def test_images_and_nodes_agree_when_height_is_not_width():
    nodes = batch(2, 12, 4)
    images = nodes.transpose(1, 2).reshape(2, 4, 3, 4)
    layer = DynamicThreshold(4, 0.8)
    torch.testing.assert_close(layer(images), layer(nodes), rtol=0, atol=0)
    assert torch.equal(layer.is_confident(images), layer.is_confident(nodes).reshape(2, 3, 4))


def test_masked_nodes_are_not_counted_and_never_confident():
    probabilities = batch(2, 30, 4)
    mask = torch.rand(2, 30) < 0.5
    layer = DynamicThreshold(4, 0.8)
    expected = reference.eq9_thresholds(probabilities[mask], 0.8)
    torch.testing.assert_close(layer(probabilities, mask=mask), expected, rtol=1e-10, atol=1e-10)
    confident = layer.is_confident(probabilities, mask=mask)
    assert torch.equal(confident[mask], reference.eq10_confident(probabilities[mask], expected))
    assert not confident[~mask].any()


def test_renaming_classes_renames_thresholds():
    probabilities, names = batch(60, 4), torch.tensor([2, 0, 3, 1])
    layer = DynamicThreshold(4, 0.8)
    torch.testing.assert_close(layer(probabilities[:, names]), layer(probabilities)[names], rtol=0, atol=0)


def test_accumulated_counts_see_every_update_and_survive_a_checkpoint():
    batches = [batch(30, 4, seed=s) for s in range(3)]
    layer = DynamicThreshold(4, 0.8, accumulate=True)
    for probabilities in batches:
        layer.update(probabilities)
    expected = reference.eq9_thresholds(torch.cat(batches), 0.8)
    resumed = DynamicThreshold(4, 0.8, accumulate=True)
    resumed.load_state_dict(layer.state_dict())
    for one in (layer, resumed):
        torch.testing.assert_close(one(batch(5, 4, seed=9)), expected, rtol=1e-10, atol=1e-10)
    assert layer.counts.dtype == torch.int64


def test_reading_writes_nothing():
    layer = DynamicThreshold(4, 0.5, accumulate=True)
    layer(batch(30, 4))
    layer.is_confident(batch(30, 4))
    assert layer.counts.tolist() == [0, 0, 0, 0]


def test_a_nan_row_counts_for_nothing():
    probabilities = batch(30, 4)
    expected = DynamicThreshold(4, 0.8)(probabilities[1:])
    probabilities[0] = torch.nan
    layer = DynamicThreshold(4, 0.8)
    torch.testing.assert_close(layer(probabilities), expected, rtol=0, atol=0)
    assert not layer.is_confident(probabilities)[0]


def test_thresholds_carry_no_gradient():
    assert not DynamicThreshold(4)(batch(30, 4).requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 4, 3, 5)])
def test_an_empty_batch_asks_for_sigma(shape):
    torch.testing.assert_close(DynamicThreshold(4)(torch.zeros(shape)), torch.full((4,), 0.95))


def test_what_has_other_classes_is_refused_whatever_is_counted():
    for wrong, error in ((torch.rand(9, 4), ValueError), (torch.zeros(9, 3, dtype=torch.int64), TypeError)):
        with pytest.raises(error, match="expected `probabilities`"):
            DynamicThreshold(3, accumulate=True)(wrong)


def test_counting_over_all_of_training_compiles_whole():
    threshold = DynamicThreshold(3, 0.5, accumulate=True)
    probabilities = random_logits(9, 3).softmax(-1)
    torch.compile(threshold.update, backend="eager", fullgraph=True)(probabilities)
    assert torch.equal(threshold.counts, threshold.count(probabilities))
