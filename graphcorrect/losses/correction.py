"""LabelCorrectionLoss: both losses over all rounds, as the paper adds them up."""

from typing import NamedTuple

from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect.labels import IGNORE_INDEX
from graphcorrect.losses.clg import CLGLoss
from graphcorrect.losses.slg import SLGLoss
from graphcorrect.refined_labels import RefinedLabels


class CorrectionLoss(NamedTuple):
    """The loss to minimize and its parts, scalars; `slg` and `clg` are sums over rounds before weighting."""

    total: Tensor
    slg: Tensor
    clg: Tensor


class LabelCorrectionLoss(nn.Module):
    r"""What trains network and refiner on corrected labels, Eq. (17).

    .. math:: \lambda_{SLG} \sum_{k=1}^K L_{SLG}(x^{(k)}) + \lambda_{CLG} \sum_{k=0}^K L_{CLG}(p^{(k)})

    The plain head, k = 0, takes the label loss too: it is what is used at inference.

    Args:
        slg_weight: weight of the contrastive loss.
        clg_weight: weight of the label loss.
        balance: of :class:`SLGLoss`.
        temperature: of :class:`SLGLoss`.
        self_weighted: of :class:`CLGLoss`.
        ignore_index: label left out.
        validate_args: False takes labels outside the classes for ignored ones, and does not wait for a GPU.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        slg_weight: float = 0.1,
        clg_weight: float = 1.0,
        balance: float = 0.5,
        temperature: float = 0.1,
        self_weighted: bool = True,
        ignore_index: int = IGNORE_INDEX,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        _checks.in_interval("slg_weight", slg_weight, 0.0, float("inf"), open_high=True)
        _checks.in_interval("clg_weight", clg_weight, 0.0, float("inf"), open_high=True)
        self.slg_weight = slg_weight
        self.clg_weight = clg_weight
        self.slg = SLGLoss(
            balance=balance, temperature=temperature, ignore_index=ignore_index, validate_args=validate_args
        )
        self.clg = CLGLoss(self_weighted=self_weighted, ignore_index=ignore_index, validate_args=validate_args)

    def forward(
        self,
        student_out: RefinedLabels,
        pseudo_labels: Tensor,
        *,
        prototypes: Tensor | None = None,
        prototype_mask: Tensor | None = None,
    ) -> CorrectionLoss:
        """Adds up the losses of all rounds.

        Args:
            student_out: what the student's refiner returned for the strong view.
            pseudo_labels: (..., N), or (B, H', W') of any resolution; the teacher's corrected labels, or true ones.
            prototypes: (R, C, D) with R at least the number of rounds, :class:`PrototypeBank`'s.
            prototype_mask: (R, C) bool, True where a class has a prototype.

        Returns:
            CorrectionLoss(total, slg, clg).

        Raises:
            ValueError, TypeError: shapes, ranges or dtypes do not fit.
        """
        rounds = len(student_out.features) - 1
        if prototypes is not None:
            _checks.ndim("prototypes", prototypes, (3,), "(num_rounds, C, D)")
            if len(prototypes) < rounds:
                raise ValueError(
                    f"expected `prototypes` of at least {rounds} rounds, got {_checks.shape_of(prototypes)}"
                )
        first = student_out.probabilities[0]
        num_classes = first.shape[1] if first.ndim == 4 else first.shape[-1]
        clg = sum(
            (self.clg(probabilities, pseudo_labels) for probabilities in student_out.probabilities), first.new_zeros(())
        )
        slg = first.new_zeros(())
        for number, features in enumerate(student_out.features[1:]):
            slg = slg + self.slg(
                features,
                pseudo_labels,
                None if prototypes is None else prototypes[number],
                None if prototype_mask is None else prototype_mask[number],
                num_classes=num_classes,
            )
        return CorrectionLoss(self.slg_weight * slg + self.clg_weight * clg, slg, clg)

    def extra_repr(self) -> str:
        """The settings that `repr` prints."""
        return f"slg_weight={self.slg_weight}, clg_weight={self.clg_weight}"
