"""A scikit-learn estimator around the refiner: NumPy arrays and wrong labels in, corrected labels out.

Importing this module imports scikit-learn (`pip install "scikit-learn>=1.6"`); importing graphcorrect does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._missing import dense_rows, split_labels
from graphcorrect.ops.knn import knn
from graphcorrect.refine import DualGraphRefiner

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('graphcorrect.sklearn needs scikit-learn 1.6: pip install "scikit-learn>=1.6"') from error


class LabelCorrector(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Corrects wrong labels of a table of features, and labels new rows by the corrected ones.

    An untrained :class:`graphcorrect.DualGraphRefiner` over all rows: those with similar features vote on each other's
    labels, and rows of one class draw together. In use it is like scikit-learn's `LabelSpreading`, with every given
    label open to doubt. Similarity is the cosine: center features whose origin means nothing (`StandardScaler`).

    Args:
        n_neighbors: rows that vote on each row's label; with fewer rows, all others.
        n_rounds: rounds of both graphs.
        confidence: in (1 / C, 1); how far a given label is believed before its neighbors are asked. The other classes
            share the rest.
        missing_label: value in `y` of rows without a label, as -1 is to `LabelSpreading`; `numpy.nan` or `pandas.NA`
            stand for every guise of nothing (NaN, None, NA, masked entries). None: every label is given.

    Attributes:
        classes_: (C,) the classes, sorted.
        transduction_: (N,) the corrected label of each row.
        label_distributions_: (N, C) its probabilities.
        n_features_in_: D.

    Cost: `fit` O(N² D) time, `predict` O(M N D) for M rows; memory linear in the rows.

    Example:
        >>> features = [[0.0, 1.0], [0.1, 1.0], [0.0, 0.9], [1.0, 0.0], [0.9, 0.1], [1.0, 0.1]]
        >>> corrector = LabelCorrector(n_neighbors=2).fit(features, ["a", "a", "b", "b", "b", "b"])
        >>> corrector.transduction_  # the third row looks like the first two
        array(['a', 'a', 'a', 'b', 'b', 'b'], dtype='<U1')
        >>> corrector.predict([[0.2, 1.0]])
        array(['a'], dtype='<U1')
    """

    def __init__(
        self, n_neighbors: int = 20, *, n_rounds: int = 2, confidence: float = 0.9, missing_label: Any = None
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_rounds = n_rounds
        self.confidence = confidence
        self.missing_label = missing_label

    def fit(self, X: ArrayLike, y: ArrayLike) -> LabelCorrector:
        """Corrects the labels `y` (N,) of the rows `X` (N, D).

        Raises:
            ValueError: shapes do not fit, values are not finite, no row has a label, or a setting is out of range.
        """
        n_neighbors, n_rounds, confidence = map(_plain, (self.n_neighbors, self.n_rounds, self.confidence))
        _checks.integer_at_least("n_neighbors", n_neighbors, 1)
        _checks.integer_at_least("n_rounds", n_rounds, 1)
        _checks.in_interval("confidence", confidence, 0.0, 1.0, open_low=True, open_high=True)
        X, y, is_given = dense_rows("X", X), dense_rows("y", y), None
        if y is not None:
            labels, is_given = split_labels(y, self.missing_label)
            if len(labels) and not is_given.any():
                raise ValueError(
                    f"expected `y` with a label, got {self.missing_label!r} (`missing_label`) in every row"
                )
            if not is_given.all():  # what scikit-learn checks has no holes
                y = np.where(is_given, labels, labels[is_given][0])
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        assert is_given is not None  # scikit-learn has refused None
        self.classes_, codes = np.unique(labels[is_given], return_inverse=True)
        count = len(self.classes_)
        if count > 1 and self.confidence <= 1 / count:  # a label would speak against its own class
            raise ValueError(
                f"expected `confidence` above 1/{count} = {1 / count:.4g} for {count} classes, got {self.confidence}"
            )
        features, given = torch.tensor(rows), torch.tensor(is_given)
        start = self._initial_distributions(features, given, torch.tensor(codes))
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # building layers draws from the caller's stream
            refiner = DualGraphRefiner(
                len(self.classes_),
                features.shape[1],
                num_rounds=n_rounds,
                num_neighbors=max(1, min(n_neighbors, len(features) - 1)),
            ).eval()  # which waits for no other process
            refined = refiner(features, start.log())
        self.label_distributions_: NDArray[Any] = refined.soft_labels.numpy()
        self.transduction_: NDArray[Any] = self.classes_[refined.pseudo_labels.numpy()]
        self._features = features.numpy()  # a copy: what becomes of the caller's rows is no matter
        return self

    def fit_predict(self, X: ArrayLike, y: ArrayLike) -> NDArray[Any]:
        """The corrected labels (N,) of the rows that were given."""
        return self.fit(X, y).transduction_

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Class probabilities (M, C) of new rows (M, D): what their neighbors among the corrected rows say."""
        check_is_fitted(self)
        rows = validate_data(self, dense_rows("X", X), dtype=[np.float64, np.float32], reset=False)
        keys = torch.tensor(self._features)
        queries = torch.tensor(rows).to(keys)
        votes: NDArray[Any] = self._vote(queries, keys, torch.tensor(self.label_distributions_)).numpy()
        return votes

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (M,) of new rows (M, D)."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return labels

    def _initial_distributions(self, features: Tensor, given: Tensor, codes: Tensor) -> Tensor:
        """What is believed of each row, (N, C): its label, or for want of one what labeled neighbors say."""
        num_classes = len(self.classes_)
        rest = (1 - self.confidence) / max(1, num_classes - 1)
        labeled = features.new_full((len(codes), num_classes), rest).scatter(1, codes[:, None], self.confidence)
        start = features.new_empty(len(features), num_classes)
        start[given] = labeled
        start[~given] = self._vote(features[~given], features[given], labeled)
        return start

    def _vote(self, queries: Tensor, keys: Tensor, distributions: Tensor) -> Tensor:
        """Mean distribution (M, C) of each query's nearest keys, weighted by cosine; all keys' if none is similar."""
        similarity, index = knn(queries, keys, min(int(self.n_neighbors), len(keys)))
        votes = torch.einsum("mk,mkc->mc", similarity.clamp_min(0), distributions[index])
        total = votes.sum(-1, keepdim=True)
        return torch.where(total > 0, votes / total, distributions.mean(0))


def _plain(value: Any) -> Any:
    """A number of numpy's, as its grids of settings hold them, as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value
