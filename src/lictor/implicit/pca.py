"""Principal components of patches: the linear network, found without training.

float64 throughout, and block by block, so that no more than a block of patches and one matrix of
second moments is in memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float

from lictor.errors import DataError

# Patches "p n c", and where they have values, "p n"; None: everywhere.
Block = tuple[Float[np.ndarray, "_ _ _"], Bool[np.ndarray, "_ _"] | None]


@dataclass(frozen=True)
class Pca:
    """The affine subspace that patches are nearest to.

    Args:
        mean: of each sample of a patch, over the patches that have it.
        basis: orthonormal over all n * c samples; the largest entry of each component is positive.
        variances: of the components' coefficients, falling.
    """

    mean: Float[np.ndarray, "n c"]
    basis: Float[np.ndarray, "n c latent"]
    variances: Float[np.ndarray, " latent"]


def fit_pca(blocks: Iterable[Block], latent: int) -> Pca:
    """Return the first principal components of patches; a masked point counts as the mean.

    The eigenvectors are those of the samples' covariance or of the patches' inner products,
    whichever is the smaller matrix. The second reads the blocks once for each block.

    Args:
        blocks: of patches of one shape; they are gone through several times, so no iterator.
        latent: how many components, at most as many as a patch has samples, and fewer than there
            are patches.

    Raises `DataError` on too few patches or samples, on patches of several shapes, and on values
    that are not finite.
    """
    if isinstance(blocks, Iterator):
        raise DataError("the blocks are gone through several times: give a list, not an iterator")
    mean, count = _mean(blocks)
    samples = mean.size
    if not 1 <= latent <= min(samples, count - 1):
        raise DataError(
            f"{latent} components of {count} patches with {samples} samples: give 1 to "
            f"{min(samples, count - 1)}, or more patches"
        )
    if samples <= count:
        vectors, values = _by_covariance(blocks, mean, latent)
    else:
        vectors, values = _by_inner_products(blocks, mean, count, latent)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    basis = vectors * np.where(largest < 0, -1.0, 1.0)
    return Pca(mean, basis.reshape(*mean.shape, latent), np.maximum(values, 0) / count)


def _mean(blocks: Iterable[Block]) -> tuple[np.ndarray, int]:
    """Return the mean of each sample where it has a value, and the number of patches."""
    total, there, count = np.zeros(()), np.zeros(()), 0
    for patches, mask in blocks:
        if total.ndim and total.shape != patches.shape[1:]:
            raise DataError(
                f"patches of {total.shape} and of {patches.shape[1:]} (points, channels): "
                "give patches of one shape"
            )
        valid = np.ones(patches.shape[:2], bool) if mask is None else mask
        values = np.where(valid[..., None], patches, 0).astype(np.float64)
        if not np.isfinite(values).all():
            raise DataError("patches have values that are not finite: mask them")
        total, there = total + values.sum(0), there + valid.sum(0)[:, None]
        count += len(patches)
    if not count:
        raise DataError("no patches: principal components need some")
    return total / np.maximum(there, 1), count


def _centred(blocks: Iterable[Block], mean: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the blocks as rows of differences from the mean, 0 where a patch has no value."""
    for patches, mask in blocks:
        rows = patches.astype(np.float64) - mean
        if mask is not None:
            rows = np.where(mask[..., None], rows, 0)
        yield rows.reshape(len(rows), -1)


def _largest(matrix: np.ndarray, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors and eigenvalues of a symmetric matrix, the largest first."""
    size = len(matrix)
    values, vectors = scipy.linalg.eigh(matrix, subset_by_index=(size - latent, size - 1))
    return vectors[:, ::-1], values[::-1]


def _by_covariance(
    blocks: Iterable[Block], mean: np.ndarray, latent: int
) -> tuple[np.ndarray, np.ndarray]:
    moments = np.zeros((mean.size, mean.size))
    for rows in _centred(blocks, mean):
        moments += rows.T @ rows
    return _largest(moments, latent)


def _by_inner_products(
    blocks: Iterable[Block], mean: np.ndarray, count: int, latent: int
) -> tuple[np.ndarray, np.ndarray]:
    products = np.zeros((count, count))
    top = 0
    for rows in _centred(blocks, mean):
        left = 0
        for others in _centred(blocks, mean):
            if left > top:
                break  # the other half is the same
            products[top : top + len(rows), left : left + len(others)] = rows @ others.T
            left += len(others)
        top += len(rows)
    weights, values = _largest(np.tril(products) + np.tril(products, -1).T, latent)
    vectors, top = np.zeros((mean.size, latent)), 0
    for rows in _centred(blocks, mean):
        vectors += rows.T @ weights[top : top + len(rows)]
        top += len(rows)
    # Their lengths are the roots of the eigenvalues; where those vanish, any direction will do.
    return np.linalg.qr(vectors).Q, values
