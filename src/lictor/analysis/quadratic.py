"""The smallest problem with a rate and a distortion: two quadratics of one vector.

What holds about conflicts on paper can be seen here exactly. The statements themselves, among them
one that one might expect and that is false, are tests/analysis/test_conflict_theory.py.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class TwoQuadratics:
    """Rate `(x-a)^T A (x-a) / 2` and weighted distortion `(x-b)^T B (x-b) / 2`, float64.

    `a` and `A` are `rate_center` and `rate_hessian`; matrices are symmetric, positive definite.
    """

    rate_hessian: Float64[Tensor, "n n"]
    distortion_hessian: Float64[Tensor, "n n"]
    rate_center: Float64[Tensor, " n"]
    distortion_center: Float64[Tensor, " n"]

    @property
    def hessian(self) -> Float64[Tensor, "n n"]:
        """The second derivative of the loss."""
        return self.rate_hessian + self.distortion_hessian

    @property
    def optimum(self) -> Float64[Tensor, " n"]:
        """Where the loss, the sum of both, is least."""
        pull = self.rate_hessian @ self.rate_center
        pull = pull + self.distortion_hessian @ self.distortion_center
        return torch.linalg.solve(self.hessian, pull)

    def rate_gradient(self, x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Return the gradient of the rate."""
        return self.rate_hessian @ (x - self.rate_center)

    def distortion_gradient(self, x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Return the gradient of the weighted distortion."""
        return self.distortion_hessian @ (x - self.distortion_center)


def random_orthogonal(size: int, generator: torch.Generator) -> Float64[Tensor, "n n"]:
    """Draw an orthogonal matrix."""
    gauss = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gauss)
    return q * torch.sign(r.diagonal())


def random_definite(
    size: int,
    condition: float,
    generator: torch.Generator,
    *,
    basis: Float64[Tensor, "n n"] | None = None,
) -> Float64[Tensor, "n n"]:
    """Draw a symmetric positive definite matrix.

    Its eigenvalues are log-uniform from 1 to `condition`, both of which occur; its eigenvectors are
    the columns of `basis`, random if not given.
    """
    logs = torch.rand(size, generator=generator, dtype=torch.float64)
    logs[0], logs[-1] = 0, 1
    values = condition**logs
    vectors = random_orthogonal(size, generator) if basis is None else basis
    matrix = vectors * values @ vectors.T
    return (matrix + matrix.T) / 2


def matrix_power(matrix: Float64[Tensor, "n n"], exponent: float) -> Float64[Tensor, "n n"]:
    """Return a real power of a symmetric positive definite matrix, such as -1/2."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T
