"""`NestedRotation`: the rotation head behind scikit-learn's estimator contract (extra ``[sklearn]``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_names
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.heads.choose import fit_rotation
from nestvox.heads.contract import normalise
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Scatter, centred, default_dims

require("sklearn", extra="sklearn", purpose="NestedRotation")

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # noqa: E402


class _SpeakersError(ModelError, ValueError):
    """Speakers that cannot be used: scikit-learn's contract wants a ValueError."""


class NestedRotation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Rotate vectors so that every prefix is as good as it can be and the full length loses nothing.

    With `centre` rows are brought to unit length and their mean is subtracted, which changes the full length too.

    Args:
        dims: prefix lengths to serve; None: powers of two from 16 up, and the full size.
        method: ``auto`` is ``discriminant`` where `y` names two speakers with two rows each or more, else ``pca``;
            ``refined`` continues the discriminant order by gradient steps (see `heads.refine`).
        weight: of the spread within a speaker, see `heads.rotation.discriminant`.
        dim: prefix length that `transform` returns; None: all.
        normalize: scale the returned rows to unit length.
        random_state: seed of ``refined``.
        centre: subtract the mean of the rows that it was fitted on.

    Attributes:
        matrix_: (n_features, n_features) orthogonal.
        rotation_: the fitted `Rotation`, which can be saved and put into a `SpeakerModel`.
        n_features_in_: size of the vectors.
    """

    def __init__(
        self,
        dims: Sequence[int] | None = None,
        method: Literal["auto", "pca", "discriminant", "refined"] = "auto",
        weight: float = 1.0,
        dim: int | None = None,
        normalize: bool = False,
        random_state: int = 0,
        centre: bool = False,
    ) -> None:
        self.dims = dims
        self.method = method
        self.weight = weight
        self.dim = dim
        self.normalize = normalize
        self.random_state = random_state
        self.centre = centre

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit on (N, n_features) vectors; `y` (N,) names each row's speaker.

        Raises:
            ValueError: bad shapes or values, or a method that needs speakers without them.
        """
        if self.method not in ("auto", "pca", "discriminant", "refined"):
            raise ValueError(f"method must be auto, pca, discriminant or refined, got {self.method!r}")
        vectors = np.asarray(validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2), np.float64)
        size = vectors.shape[1]
        dims = default_dims(size) if self.dims is None else tuple(self.dims)
        if self.dim is not None and not 1 <= self.dim <= size:
            raise ValueError(f"dim must be None or between 1 and n_features={size}, got {self.dim}")
        speakers = None
        if y is not None:
            speakers = as_names(np.asarray(y).ravel(), "speakers", length=len(vectors), error=_SpeakersError)
        scatter = Scatter(size)
        scatter.add(vectors, speakers)
        labelled = scatter.n_speakers >= 2
        if self.method in ("discriminant", "refined") and not labelled:
            raise ValueError(f"method={self.method!r} needs y with two speakers of two vectors each, or more")
        rotation = fit_rotation(
            "pca" if not labelled else "discriminant" if self.method == "auto" else self.method,
            scatter,
            dims,
            weight=self.weight,
            labelled=(vectors, speakers) if speakers is not None else None,
            refinement=Refinement(seed=self.random_state),
        )
        self.rotation_ = centred(rotation, scatter.mean(), 0 if self.centre else size)
        self.matrix_ = self.rotation_.matrix
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Return the first `dim` coordinates of the rotated (N, n_features) vectors."""
        check_is_fitted(self)
        vectors = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        if self.rotation_.mean is None:
            nested = vectors @ self.matrix_[:, : self._n_features_out].astype(vectors.dtype)
        else:
            nested = self.rotation_.transform(vectors)[:, : self._n_features_out]
        return normalise(nested) if self.normalize else nested

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Rotate (N, k) back; from a prefix, k < n_features, this is the closest vector in the prefix's subspace.

        With `centre` the mean is added first, and what comes back is at unit length.
        """
        check_is_fitted(self)
        vectors = check_array(X, dtype=[np.float64, np.float32])
        if vectors.shape[1] > self.n_features_in_:
            raise ValueError(f"X has {vectors.shape[1]} features, at most {self.n_features_in_} can be rotated back")
        if self.rotation_.mean is not None:
            vectors = vectors + self.rotation_.mean[: vectors.shape[1]].astype(vectors.dtype)
        original: NDArray[np.floating[Any]] = vectors @ self.matrix_[:, : vectors.shape[1]].T.astype(vectors.dtype)
        return original

    @property
    def _n_features_out(self) -> int:
        """How many columns `transform` gives; scikit-learn reads it to name them."""
        return len(self.matrix_) if self.dim is None else self.dim
