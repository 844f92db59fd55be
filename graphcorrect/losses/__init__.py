"""Losses that train network and refiner on corrected labels."""

from graphcorrect.losses.clg import CLGLoss, clg_loss
from graphcorrect.losses.correction import CorrectionLoss, LabelCorrectionLoss
from graphcorrect.losses.slg import SLGLoss, slg_loss

__all__ = ["CLGLoss", "CorrectionLoss", "LabelCorrectionLoss", "SLGLoss", "clg_loss", "slg_loss"]
