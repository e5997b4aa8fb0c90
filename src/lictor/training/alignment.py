"""How far gradients or updates agree: scores from -1 (opposed) over 0 (unrelated) to 1 (alike).

A vector here is a sequence of tensors, one for each parameter, as an optimizer sees it. Sums are
taken in float64. A zero vector has no direction: it counts as unrelated to every other, so that no
score is NaN because of it; a vector whose norm is below 1e-150 counts as zero.

The functions lie beside the probe that needs them, below `analysis`, which reads what it recorded.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_SMALLEST = 1e-150


def dots(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    """Return the inner product of each tensor with its counterpart of the same shape."""
    products = [
        torch.dot(a.detach().reshape(-1).double(), b.detach().reshape(-1).double())
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(products).tolist() if products else []


def _ratio(product: float, first_square: float, second_square: float) -> float:
    scale = math.sqrt(max(first_square, 0.0)) * math.sqrt(max(second_square, 0.0))
    if math.isnan(scale + product) or math.isinf(scale + product):
        return math.nan
    return max(-1.0, min(1.0, product / scale)) if scale > _SMALLEST**2 else 0.0


def ratios(
    products: Sequence[float], first_squares: Sequence[float], second_squares: Sequence[float]
) -> tuple[float, list[float]]:
    """Return `product / sqrt(first_square * second_square)` of the sums, and of each entry.

    With inner products and squared norms of tensors these are cosines, of the whole vectors and of
    each tensor. 0 where a square is 0 or less, NaN where something is not finite.
    """
    each = list(map(_ratio, products, first_squares, second_squares))
    return _ratio(math.fsum(products), math.fsum(first_squares), math.fsum(second_squares)), each


def cosines(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, list[float]]:
    """Return the cosine between two vectors, and between each two of their tensors."""
    return ratios(dots(first, second), dots(first, first), dots(second, second))


def alignment(*vectors: Sequence[Tensor]) -> float:
    """Return the alignment score of one or more vectors, in [-1, 1].

    `2 * || mean of the unit vectors ||^2 - 1`: for two vectors their cosine, 1 when all are alike,
    `2 / n - 1` when `n` are orthogonal. Source: Wang et al., NeurIPS 2025 (arXiv:2502.00604), as
    quoted by others; here expressed by the cosines of all pairs. Raises `ValueError` without a
    vector.
    """
    if not vectors:
        raise ValueError("alignment needs at least one vector")
    count = len(vectors)
    pairs = [cosines(vectors[i], vectors[j])[0] for i in range(count) for j in range(i)]
    return 2 * (count + 2 * math.fsum(pairs)) / count**2 - 1


def conflict_rate(scores: Iterable[float]) -> float:
    """Return the share of scores below 0, in [0, 1]; scores that are NaN do not count.

    NaN when there is no score.
    """
    known = [score for score in scores if not math.isnan(score)]
    return sum(score < 0 for score in known) / len(known) if known else math.nan
