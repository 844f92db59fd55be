"""What a refiner is given, checked before any work: shapes, dtypes, devices, and then values."""

from torch import Tensor

from graphcorrect import _checks
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.ops.values import reading_is_free


def check_input(
    features: Tensor,
    logits: Tensor,
    mask: Tensor | None,
    anchors: AnchorBank | None,
    anchor_features: Tensor | None,
    *,
    num_classes: int,
    feature_dim: int,
) -> None:
    """Refuses what :meth:`DualGraphRefiner.forward` cannot take, naming the argument.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.floating("features", features)
    _checks.floating("logits", logits)
    _checks.same_device("logits", logits, "`features`", features)
    is_image = features.ndim == 4
    form = "(B, D, H, W)" if is_image else "(..., N, D)"
    _checks.at_least_2d("features", features, "(B, D, H, W) or (..., N, D)")
    _checks.size("features", features, 1 if is_image else -1, feature_dim, "entries a node")
    if is_image:
        _checks.ndim("logits", logits, (4,), f"(B, C, H, W), as `features` is {form}")
        _checks.size("logits", logits, 1, num_classes, "classes")
        _checks.size("logits", logits, 0, features.shape[0], "images, as many as `features`")
        _checks.not_transposed("logits", logits, "`features`", features)
        mask_shape = (logits.shape[0], *logits.shape[2:])
    else:
        _checks.shape("logits", logits, (*features.shape[:-1], num_classes), "(one row for each node)")
        mask_shape = tuple(logits.shape[:-1])
    _checks.mask("mask", mask, mask_shape, "(one entry for each node of `logits`)", "`logits`", logits)
    if anchors is None and anchor_features is not None:
        raise ValueError("expected `anchors` beside `anchor_features`, got None")
    if anchors is not None:
        if not callable(getattr(anchors, "correct", None)):  # whatever does what a bank does
            raise TypeError(f"expected `anchors` to be an AnchorBank, got {type(anchors).__name__}")
        _checks.size("anchors", anchors.features, 0, num_classes, "classes")
    if anchor_features is not None:
        _checks.floating("anchor_features", anchor_features)
        if is_image:
            _checks.ndim("anchor_features", anchor_features, (4,), "(B, E, h, w)")
            _checks.size("anchor_features", anchor_features, 0, features.shape[0], "images, as many as `features`")
            _checks.not_transposed("anchor_features", anchor_features, "`features`", features)
        else:
            _checks.at_least_2d("anchor_features", anchor_features, "(..., N, E)")
            expected = (*features.shape[:-1], anchor_features.shape[-1])
            _checks.shape("anchor_features", anchor_features, expected, "(one row for each node)")
        assert anchors is not None
        anchors.check_keys("anchor_features", anchor_features)
    elif anchors is not None:
        anchors.check_keys("features", features)


def check_values(features: Tensor, logits: Tensor, *, validate_args: bool) -> None:
    """Refuses NaN and Inf where `validate_args`, and probabilities in the place of logits where that costs nothing too.

    Raises:
        ValueError: they are.
    """
    if validate_args:
        _checks.finite("features", features)
        _checks.finite("logits", logits)
    if validate_args or reading_is_free(logits):
        _checks.scores("logits", logits, 1 if features.ndim == 4 else -1)
