"""What a method is: how the student is taught, how its labels are corrected, whether the graphs learn; and its name.

    supervised | self_training | fixmatch | unimatch | rounds | mllc,  then +anchors, +graphs or both

`fixmatch` and `fixmatch+anchors+graphs` see the same batches and differ in the correction alone: a claim is a pair.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

TEACHINGS = ("supervised", "self_training", "fixmatch", "unimatch", "rounds")
CORRECTIONS = ("anchors", "graphs")
PAPER = "mllc"  # self-training on labels corrected by graphs, which learn: Xiao et al., 2024


@dataclass(frozen=True)
class Method:
    """A method; `str` of it is its name.

    Attributes:
        teaching: one of `TEACHINGS`; what each of them asks of the student is told in `teaching.py`.
        correct: what corrects the teacher's labels, of `CORRECTIONS` and in their order; empty for nothing.
        graph_losses: whether the graphs learn by the losses SLG and CLG of Eq. (17).
    """

    teaching: str = "supervised"
    correct: tuple[str, ...] = ()
    graph_losses: bool = False

    def __str__(self) -> str:
        named = [each for each in self.correct if not (self.graph_losses and each == "graphs")]
        return "+".join([PAPER if self.graph_losses else self.teaching, *named])

    @property
    def uses_anchors(self) -> bool:
        """Whether its labels are corrected by labeled pixels."""
        return "anchors" in self.correct

    @property
    def uses_unlabeled(self) -> bool:
        """Whether it sees unlabeled images."""
        return self.teaching != "supervised"


def parse(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: there is none; the message has the nearest one.

    Example:
        >>> parse("fixmatch+graphs+anchors")
        Method(teaching='fixmatch', correct=('anchors', 'graphs'), graph_losses=False)
        >>> str(parse("mllc"))
        'mllc'
    """
    first, *corrections = name.split("+")
    if first not in (*TEACHINGS, PAPER) or not set(corrections) <= set(CORRECTIONS):
        near = [_nearest(first, (*TEACHINGS, PAPER)), *(_nearest(each, CORRECTIONS) for each in corrections)]
        hint = "" if None in near else f"; did you mean {'+'.join(near)!r}?"
        raise ValueError(
            f"expected a method, {', '.join(TEACHINGS)} or {PAPER}, with +{' or +'.join(CORRECTIONS)} behind it where "
            f"its labels are corrected, got {name!r}{hint}"
        )
    if first == "supervised" and corrections:
        raise ValueError(
            f"expected supervised without a correction, as it learns from no teacher's label, got {name!r}"
        )
    is_paper = first == PAPER
    named = {*corrections, *(["graphs"] if is_paper else [])}
    correct = tuple(each for each in CORRECTIONS if each in named)
    return Method("self_training" if is_paper else first, correct, is_paper)


def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, 1, cutoff=0.5)), None)
