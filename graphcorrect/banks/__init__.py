"""What is remembered of labeled nodes: mean features of classes, and anchors to look up."""

from graphcorrect.banks._choice import Calibration
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.banks.calibration import calibrate
from graphcorrect.banks.prototypes import PrototypeBank

__all__ = ["AnchorBank", "Calibration", "PrototypeBank", "calibrate"]
