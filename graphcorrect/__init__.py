"""Graph layers that correct wrong labels: for everyone who trains on pseudo-labels.

Start with :class:`DualGraphRefiner`; its parts are here too, each usable alone. What needs an optional package is
imported at its first use.
"""

from graphcorrect import metrics
from graphcorrect.backends import explain_backends
from graphcorrect.banks import AnchorBank, Calibration, PrototypeBank, calibrate
from graphcorrect.functional import guided_upsample, pool_labels, propagate, unit_rows
from graphcorrect.graphs import (
    ClassBlockOperator,
    ClassConsistencyGraph,
    GraphOperator,
    KNNAffinity,
    NeighborOperator,
)
from graphcorrect.label_issues import ImageIssues, LabelIssues, label_issues
from graphcorrect.losses import CLGLoss, CorrectionLoss, LabelCorrectionLoss, SLGLoss, clg_loss, slg_loss
from graphcorrect.ops.knn import Neighbors, knn
from graphcorrect.refine import DualGraphRefiner
from graphcorrect.refined_labels import RefinedLabels
from graphcorrect.teacher import EMATeacher
from graphcorrect.threshold import DynamicThreshold

__version__ = "0.2.0"

# name -> module, whose optional packages (torch-geometric, scikit-learn, ...) are imported when it is asked for
_LAZY = {
    "LabelCorrector": "graphcorrect.sklearn",
    "SegmentationCorrector": "graphcorrect.corrector",
    "files": "graphcorrect.files",
    "plot": "graphcorrect.plot",
    "pyg": "graphcorrect.pyg",
    "sklearn": "graphcorrect.sklearn",
}

__all__ = [
    "AnchorBank",
    "CLGLoss",
    "Calibration",
    "ClassBlockOperator",
    "ClassConsistencyGraph",
    "CorrectionLoss",
    "DualGraphRefiner",
    "DynamicThreshold",
    "EMATeacher",
    "GraphOperator",
    "ImageIssues",
    "KNNAffinity",
    "LabelCorrectionLoss",
    "LabelIssues",
    "NeighborOperator",
    "Neighbors",
    "PrototypeBank",
    "RefinedLabels",
    "SLGLoss",
    "calibrate",
    "clg_loss",
    "explain_backends",
    "guided_upsample",
    "knn",
    "label_issues",
    "metrics",
    "pool_labels",
    "propagate",
    "slg_loss",
    "unit_rows",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LAZY[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
