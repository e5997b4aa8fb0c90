"""Principal components: against numpy's decomposition, in pieces, with masks."""

import numpy as np
import pytest

from lictor.errors import DataError
from lictor.implicit.pca import fit_pca


def _patches(count, n, c, seed=0):
    """Patches with a few strong directions and some noise."""
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=(6, n, c)) * np.array([3, 2, 1.5, 1, 0.7, 0.5])[:, None, None]
    return np.tensordot(rng.normal(size=(count, 6)), strong, 1) + rng.normal(
        0.5, 0.05, (count, n, c)
    )


def _in_blocks(patches, size, mask=None):
    return [
        (patches[i : i + size], None if mask is None else mask[i : i + size])
        for i in range(0, len(patches), size)
    ]


# More patches than samples, and fewer: the two ways to get there.
SHAPES = [(200, 12, 2), (30, 40, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_components_are_the_singular_vectors(shape):
    patches = _patches(*shape)
    pca = fit_pca([(patches, None)], 4)
    flat = patches.reshape(len(patches), -1)
    _, singular, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(pca.mean, patches.mean(0), atol=1e-12)
    np.testing.assert_allclose(pca.variances, singular[:4] ** 2 / len(patches), rtol=1e-9)
    basis = pca.basis.reshape(-1, 4)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.abs(rows[:4] @ basis), np.eye(4), atol=1e-9)
    assert (np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_give_what_the_whole_gives(shape):
    patches = _patches(*shape).astype(np.float32)
    mask = np.random.default_rng(1).random(shape[:2]) > 0.3
    whole = fit_pca([(patches, mask)], 5)
    pieces = fit_pca(_in_blocks(patches, 7, mask), 5)
    np.testing.assert_allclose(pieces.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(pieces.basis, whole.basis, atol=1e-8)
    np.testing.assert_allclose(pieces.variances, whole.variances, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_masked_points_do_not_matter_and_count_as_the_mean(shape):
    patches = _patches(*shape)
    mask = np.random.default_rng(1).random(shape[:2]) > 0.3
    mask[:, 3] = False  # a point that no patch has
    pca = fit_pca([(patches, mask)], 3)
    spoilt = np.where(mask[..., None], patches, np.nan)
    np.testing.assert_array_equal(fit_pca([(spoilt, mask)], 3).basis, pca.basis)
    mean = np.nanmean(np.where(mask[:, :3, None], patches[:, :3], np.nan), 0)
    np.testing.assert_allclose(pca.mean[:3], mean, atol=1e-12)
    assert (pca.mean[3] == 0).all()
    filled = np.where(mask[..., None], patches, pca.mean)
    np.testing.assert_allclose(fit_pca([(filled, None)], 3).basis, pca.basis, atol=1e-9)


@pytest.mark.parametrize("shape", [(50, 4, 2), (9, 40, 1)])
def test_patches_of_few_directions_still_give_an_orthonormal_basis(shape):
    rng = np.random.default_rng(0)
    one = rng.normal(size=shape[1:])
    patches = rng.normal(size=(shape[0], 1, 1)) * one
    pca = fit_pca([(patches, None)], 5)
    basis = pca.basis.reshape(-1, 5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(np.abs(basis[:, 0] @ one.ravel()), np.linalg.norm(one))
    assert (pca.variances >= 0).all()
    assert pca.variances[1] < 1e-12 * pca.variances[0]


def test_what_cannot_be_is_refused():
    patches = _patches(10, 4, 1)
    for latent in (0, 5):  # more than samples
        with pytest.raises(DataError, match="components"):
            fit_pca([(patches, None)], latent)
    with pytest.raises(DataError, match="1 to 3, or more patches"):
        fit_pca([(_patches(4, 9, 1), None)], 4)
    with pytest.raises(DataError, match="one shape"):
        fit_pca([(patches, None), (_patches(3, 5, 1), None)], 2)
    with pytest.raises(DataError, match="not finite"):
        fit_pca([(np.where(patches > 1, np.inf, patches), None)], 2)
    with pytest.raises(DataError, match="no patches"):
        fit_pca([], 2)
    with pytest.raises(DataError, match="iterator"):
        fit_pca(iter([(patches, None)]), 2)
