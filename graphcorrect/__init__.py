"""Graph layers that correct wrong labels: for everyone who trains on pseudo-labels.

Start with :class:`DualGraphRefiner`; its parts are here too, each usable alone.
"""

from graphcorrect import metrics
from graphcorrect.banks import AnchorBank, PrototypeBank
from graphcorrect.graphs import ClassConsistencyGraph, GraphOperator, KNNAffinity
from graphcorrect.guided import guided_upsample
from graphcorrect.losses import CLGLoss, LabelCorrectionLoss, SLGLoss, clg_loss, slg_loss
from graphcorrect.neighbors import knn
from graphcorrect.refine import DualGraphRefiner
from graphcorrect.refined_labels import RefinedLabels
from graphcorrect.teacher import EMATeacher
from graphcorrect.threshold import DynamicThreshold

__version__ = "0.1.0"

__all__ = [
    "AnchorBank",
    "CLGLoss",
    "ClassConsistencyGraph",
    "DualGraphRefiner",
    "DynamicThreshold",
    "EMATeacher",
    "GraphOperator",
    "KNNAffinity",
    "LabelCorrectionLoss",
    "PrototypeBank",
    "RefinedLabels",
    "SLGLoss",
    "clg_loss",
    "guided_upsample",
    "knn",
    "metrics",
    "slg_loss",
]
