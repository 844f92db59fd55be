"""Every layer and every public function through the same battery (layer_checks.py)."""

import io

import layer_checks
import pytest
import torch
from layer_checks import Function
from strategies import random_features, random_labels, random_logits

import graphcorrect
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
    RefinedLabels,
    SLGLoss,
    clg_loss,
    guided_upsample,
    knn,
    metrics,
    slg_loss,
)
from graphcorrect.functional import pool_labels, propagate, unit_rows

X = random_features(2, 16, 4, dtype=torch.float32)
Z = random_logits(2, 16, 3, dtype=torch.float32)
P = Z.softmax(-1)
Y = random_labels(2, 16, num_classes=3, ignored=0.2)
IMAGES, LOGIT_IMAGES = X.mT.reshape(2, 4, 2, 8), Z.mT.reshape(2, 3, 2, 8)
LABEL_IMAGES = Y.reshape(2, 2, 8)
PICTURES = torch.rand(2, 3, 5, 17, generator=torch.Generator().manual_seed(0))
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def anchors():
    bank = AnchorBank(3, 4)
    bank.update(X, Y)
    return bank


def prototypes():
    bank = PrototypeBank(3, 4)
    bank.update(X, Y, round=1)
    return bank


def updated_prototypes(features, labels):
    bank = prototypes().to(features.device, torch.promote_types(features.dtype, torch.float32))
    bank.update(features, labels, round=1)
    return bank(1)


def updated_anchors(features, labels):
    bank = anchors().to(features.device, torch.promote_types(features.dtype, torch.float32))
    bank.update(features, labels)
    return bank.features


def updated_threshold(probabilities):
    threshold = DynamicThreshold(3, 0.5, accumulate=True).to(probabilities.device)
    threshold.update(probabilities)
    return threshold(probabilities)


def refiner(**options):
    return DualGraphRefiner(3, 4, num_neighbors=4, **options)


def smooth(features, values):
    return propagate(KNNAffinity(4)(features), values, 0.5)


def answer(probabilities):
    out = RefinedLabels((probabilities, probabilities, probabilities.flip(1)), ())
    return out.soft_labels, out.pseudo_labels, out.confidence


LAYERS = {
    "KNNAffinity": (lambda: KNNAffinity(4), (X,)),
    "KNNAffinity, differentiable": (lambda: KNNAffinity(4, gamma=2.0, differentiable=True), (X,)),
    "ClassConsistencyGraph": (ClassConsistencyGraph, (P,)),
    "ClassConsistencyGraph, cosine": (lambda: ClassConsistencyGraph(similarity="cosine", differentiable=True), (P, Y)),
    "DualGraphRefiner": (refiner, (X, Z)),
    "DualGraphRefiner, images": (lambda: refiner(max_nodes=12), (IMAGES, LOGIT_IMAGES)),
    "DualGraphRefiner, features first": (lambda: refiner(order="semantic_first", differentiable=True), (X, Z)),
    "DualGraphRefiner, cautious": (lambda: DualGraphRefiner.from_preset("cautious", 3, 4, num_neighbors=4), (X, Z)),
    "DualGraphRefiner, released": (lambda: DualGraphRefiner.from_preset("released", 3, 4, num_neighbors=4), (X, Z)),
    "RefinedLabels": (lambda: Function(answer), (P,)),
    "DynamicThreshold": (lambda: DynamicThreshold(3, 0.5), (P,)),
    "PrototypeBank": (prototypes, (1,)),
    "PrototypeBank, update": (lambda: Function(updated_prototypes), (X, Y)),
    "AnchorBank": (anchors, (X,)),
    "AnchorBank, update": (lambda: Function(updated_anchors), (X, Y)),
    "DynamicThreshold, update": (lambda: Function(updated_threshold), (P,)),
    "EMATeacher": (lambda: EMATeacher(refiner()), (X, Z)),
    "SLGLoss": (SLGLoss, (X, Y, X[0, :3])),
    "SLGLoss, images": (lambda: SLGLoss(reduction="none"), (IMAGES, LABEL_IMAGES, X[0, :3])),
    "CLGLoss": (CLGLoss, (P, Y)),
    "CLGLoss, images": (lambda: CLGLoss(reduction="none"), (LOGIT_IMAGES.softmax(1), LABEL_IMAGES)),
    "LabelCorrectionLoss": (LabelCorrectionLoss, (refiner()(X, Z), Y)),
    "knn": (lambda: Function(knn, keys=None, num_neighbors=3, exclude_self=True), (X,)),
    "knn, faiss": (lambda: Function(knn, keys=None, num_neighbors=3, backend="faiss"), (X,)),
    "propagate": (lambda: Function(smooth), (X, Z)),
    "unit_rows": (lambda: Function(unit_rows), (X,)),
    "pool_labels": (lambda: Function(pool_labels, size=(2, 2), num_classes=3), (LABEL_IMAGES,)),
    "guided_upsample, images": (lambda: Function(guided_upsample), (LOGIT_IMAGES.softmax(1), PICTURES)),
    "slg_loss": (lambda: Function(slg_loss, num_classes=3), (X, Y)),
    "clg_loss": (lambda: Function(clg_loss, self_weighted=False), (P, Y)),
    "confusion_matrix": (lambda: Function(metrics.confusion_matrix, num_classes=3), (P.argmax(-1), Y)),
    "per_class_iou": (lambda: Function(metrics.per_class_iou), (torch.rand(3, 3),)),
}
WITH_FLOATS = [
    name for name in LAYERS if name not in ("PrototypeBank", "confusion_matrix", "per_class_iou", "pool_labels")
]
IMAGE_LAYERS = [name for name in LAYERS if name.endswith("images")]
# What reads values on the way, and so cannot be one graph: a bank that gathers its filled slots.
IN_PARTS = {"AnchorBank"}
# What returns a graph, or builds a module inside; and what is a part of another one that takes seconds.
UNCOMPILED = [name for name in LAYERS if name.split(",")[0] in ("KNNAffinity", "ClassConsistencyGraph")]
UNCOMPILED += [name for name in LAYERS if name.endswith((", update", ", features first"))]
# What has to know values on the way, and so waits for a GPU: of labels that are checked, or of slots that are filled.
WAITING = {"AnchorBank", "AnchorBank, update", "PrototypeBank, update", "DynamicThreshold, update", "knn, faiss"}
WAITING |= {"slg_loss", "clg_loss", "confusion_matrix"}
UNCOMPILED += ["DualGraphRefiner", "EMATeacher", "slg_loss", "clg_loss", "CLGLoss", "SLGLoss, images"]


@pytest.fixture(params=LAYERS)
def build_and_inputs(request):
    return LAYERS[request.param]


def test_every_public_name_is_in_the_battery():
    tested = {name.split(",")[0] for name in LAYERS}
    # Graphs are what layers return, compared by their matrices, and so are results; metrics is a module.
    graphs = {"GraphOperator", "NeighborOperator", "ClassBlockOperator"}
    results = {"Neighbors", "CorrectionLoss", "Calibration", "ImageIssues", "LabelIssues"}
    of_images = {"calibrate", "label_issues"}  # functions of many images, with tests of their own
    assert set(graphcorrect.__all__) - tested == graphs | results | of_images | {"explain_backends", "metrics"}


def test_the_same_input_gives_the_same_result(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_determinism(build(), inputs)


def test_deterministic_mode_is_no_obstacle(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_deterministic_mode(build().eval(), inputs)


def test_inputs_stay_as_they_were(build_and_inputs):
    build, inputs = build_and_inputs
    if not layer_checks.tensors_of(inputs):
        pytest.skip("takes no tensor")
    layer_checks.check_inputs_stay_unmodified(build(), inputs)


def test_training_mode_changes_no_result(build_and_inputs, request):
    build, inputs = build_and_inputs
    if "released" in request.node.name:
        pytest.skip("its threshold counts over training")
    layer_checks.check_training_and_evaluation_agree(build(), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_every_precision_gives_what_float64_gives(name, dtype):
    build, inputs = LAYERS[name]
    layer_checks.check_dtype(build().eval(), inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_autocast_narrows_nothing(name, dtype):
    build, inputs = LAYERS[name]
    layer_checks.check_autocast(build().eval(), inputs, dtype)


def test_a_saved_layer_answers_the_same_when_loaded(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_state_dict_round_trip(build().eval(), build().eval(), inputs)


@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # torch 2.4's own unpickling
def test_copies_and_pickles_answer_the_same(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_copies(build().eval(), inputs)


def test_results_can_be_pickled():
    out = refiner()(X, Z)
    twin = torch.load(io.BytesIO(_saved(tuple(out.probabilities))), weights_only=True)
    layer_checks.same(twin, out.probabilities)


def _saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_strided_inputs_are_read_right(build_and_inputs):
    build, inputs = build_and_inputs
    if not layer_checks.tensors_of(inputs):
        pytest.skip("takes no tensor")
    layer_checks.check_noncontiguous_inputs(build().eval(), inputs)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_channels_last_images_are_read_right(name):
    build, inputs = LAYERS[name]
    layer_checks.check_channels_last_inputs(build().eval(), inputs)


@layer_checks.compiles
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in UNCOMPILED])
def test_compiled_layers_answer_the_same_in_one_graph(name):
    build, inputs = LAYERS[name]
    layer_checks.check_compiles(build().eval(), inputs, whole=name not in IN_PARTS)


@pytest.mark.gpu
def test_a_gpu_answers_as_the_cpu(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_device(build().eval(), inputs, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_every_precision_on_a_gpu_gives_what_float64_gives(name, dtype):
    build, inputs = LAYERS[name]
    layer_checks.check_dtype(build().eval().cuda(), layer_checks.on_device(inputs, "cuda"), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_autocast_on_a_gpu_narrows_nothing(name):
    build, inputs = LAYERS[name]
    layer_checks.check_autocast(build().eval().cuda(), layer_checks.on_device(inputs, "cuda"), torch.float16)


@pytest.mark.gpu
def test_deterministic_mode_is_no_obstacle_on_a_gpu(build_and_inputs):
    build, inputs = build_and_inputs
    layer_checks.check_deterministic_mode(build().eval().cuda(), layer_checks.on_device(inputs, "cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in WAITING])
def test_no_layer_waits_for_the_gpu(name):
    build, inputs = LAYERS[name]
    layer, inputs = build().eval().cuda(), layer_checks.on_device(inputs, "cuda")
    for module in layer.modules():
        if hasattr(module, "validate_args"):
            module.validate_args = False
    layer_checks.gradients(layer, inputs)  # libraries set themselves up, which may wait
    with layer_checks.no_waiting():
        layer_checks.gradients(layer, inputs)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DualGraphRefiner", "LabelCorrectionLoss", "knn"])
def test_compiled_layers_answer_the_same_on_a_gpu(name):
    build, inputs = LAYERS[name]
    layer_checks.check_compiles(
        build().eval().cuda(), layer_checks.on_device(inputs, "cuda"), backend="inductor", whole=True
    )


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
        EMATeacher(CLGLoss(), momentum=0.7): ["momentum=0.7"],
        ClassConsistencyGraph(similarity="cosine"): ["similarity='cosine'", "differentiable=False"],
    }.items(),
)
def test_the_arguments_are_in_the_repr_and_are_attributes(layer, told):
    for argument in told:
        assert argument in repr(layer)
        name, value = argument.split("=")
        owner = layer if hasattr(layer, name) else layer.threshold
        assert repr(getattr(owner, name)) == value


def test_a_graph_says_its_shape_and_state():
    assert repr(KNNAffinity(4)(X)) == (
        "NeighborOperator(shape=(2, 16, 16), num_neighbors=4, dtype=torch.float32, device='cpu', normalized)"
    )


def test_layers_have_shapes_where_there_are_no_values():
    features, logits = torch.randn(2, 30, 8, device="meta"), torch.randn(2, 30, 4, device="meta")
    out = graphcorrect.DualGraphRefiner(4, 8, num_neighbors=5).to("meta")(features, logits)
    assert out.soft_labels.shape == (2, 30, 4)
    loss = graphcorrect.clg_loss(logits.softmax(-1), torch.zeros(2, 30, dtype=torch.int64, device="meta"))
    assert loss.shape == ()
