"""Every module of the library through the same battery (layer_checks.py)."""

import layer_checks
import pytest
import torch
from strategies import random_features, random_labels, random_logits

from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    CLGLoss,
    DualGraphRefiner,
    DynamicThreshold,
    EMATeacher,
    KNNAffinity,
    LabelCorrectionLoss,
    PrototypeBank,
    SLGLoss,
)

X = random_features(2, 16, 4, dtype=torch.float32)
Z = random_logits(2, 16, 3, dtype=torch.float32)
P = Z.softmax(-1)
Y = random_labels(2, 16, num_classes=3, ignored=0.2)


def anchors():
    bank = AnchorBank(3, 4)
    bank.update(X, Y)
    return bank


LAYERS = {
    "KNNAffinity": (lambda: KNNAffinity(4), (X,)),
    "ClassConsistencyGraph": (ClassConsistencyGraph, (P,)),
    "DualGraphRefiner": (lambda: DualGraphRefiner(3, 4, num_neighbors=4), (X, Z)),
    "DualGraphRefiner, images": (
        lambda: DualGraphRefiner(3, 4, num_neighbors=4, max_nodes=12),
        (X.mT.reshape(2, 4, 2, 8), Z.mT.reshape(2, 3, 2, 8)),
    ),
    "DualGraphRefiner, released": (lambda: DualGraphRefiner.from_preset("released", 3, 4, num_neighbors=4), (X, Z)),
    "DynamicThreshold": (lambda: DynamicThreshold(3, 0.5), (P,)),
    "AnchorBank": (anchors, (X,)),
    "EMATeacher": (lambda: EMATeacher(DualGraphRefiner(3, 4, num_neighbors=4)), (X, Z)),
    "SLGLoss": (SLGLoss, (X, Y, X[0, :3])),
    "CLGLoss": (CLGLoss, (P, Y)),
    "LabelCorrectionLoss": (LabelCorrectionLoss, (DualGraphRefiner(3, 4, num_neighbors=4)(X, Z), Y)),
}


@pytest.fixture(params=LAYERS)
def build_and_inputs(request):
    return LAYERS[request.param]


def test_the_same_input_gives_the_same_result(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_determinism(build(), inputs)


def test_inputs_stay_as_they_were(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_inputs_stay_unmodified(build(), inputs)


def test_training_mode_changes_no_result(build_and_inputs, request):
    build, inputs = build_and_inputs
    if "released" in request.node.name:
        pytest.skip("its threshold counts over training")
    layer_checks.check_training_and_evaluation_agree(build(), inputs)


def test_a_saved_layer_answers_the_same_when_loaded(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_state_dict_round_trip(build().eval(), build().eval(), inputs)


def test_copies_and_pickles_answer_the_same(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_copies(build().eval(), inputs)


def test_strided_inputs_are_read_right(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_noncontiguous_inputs(build().eval(), inputs)


@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_answer_the_same(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_compiles(build().eval(), inputs)


@pytest.mark.parametrize(
    ("layer", "told"),
    {
        KNNAffinity(7, gamma=2.0): ["num_neighbors=7", "gamma=2.0"],
        DualGraphRefiner(3, 4, alpha=0.3, order="simultaneous"): ["alpha=0.3", "order='simultaneous'"],
        DynamicThreshold(3, 0.7): ["num_classes=3", "sigma=0.7"],
        PrototypeBank(3, 4, momentum=0.9): ["feature_dim=4", "momentum=0.9"],
        AnchorBank(3, 4, strength=0.7): ["capacity_per_class=3000", "strength=0.7"],
        SLGLoss(temperature=0.3): ["balance=0.5", "temperature=0.3"],
        CLGLoss(self_weighted=False): ["self_weighted=False", "ignore_index=255"],
        LabelCorrectionLoss(slg_weight=0.3): ["slg_weight=0.3", "clg_weight=1.0"],
    }.items(),
)
def test_the_arguments_are_in_the_repr_and_are_attributes(layer, told):
    for argument in told:
        assert argument in repr(layer)
        name, value = argument.split("=")
        owner = layer if hasattr(layer, name) else layer.threshold
        assert repr(getattr(owner, name)) == value
