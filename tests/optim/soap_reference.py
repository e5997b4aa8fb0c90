"""SOAP once more: slow, one parameter at a time, one loop per line of the algorithm."""

from math import prod, sqrt

import torch
from torch import Tensor


def viewed_shape(shape: torch.Size, shapes: str, max_factor: int) -> list[int]:
    """The sides that a parameter is seen with, sides of 1 left out."""
    sides = list(shape)
    if shapes == "spatial" and prod(sides[2:]) <= max_factor:
        sides = [*sides[:2], prod(sides[2:])]
    if shapes == "matrix":
        joined: list[int] = []
        for side in reversed(sides[1:]):
            if joined and side * joined[0] <= max_factor:
                joined[0] *= side
            else:
                joined.insert(0, side)
        sides = [*sides[:1], *joined]
    return [side for side in sides if side > 1]


def unfold(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def multiply(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    return torch.tensordot(matrix, x, dims=([1], [axis])).movedim(0, axis)


class ReferenceParameter:
    """State and update of one parameter, a plain tensor that is replaced at each step."""

    def __init__(self, value: Tensor, shapes: str, max_factor: int):
        self.value = value.clone(memory_format=torch.contiguous_format)
        self.sides = viewed_shape(value.shape, shapes, max_factor)
        axes = range(len(self.sides)) if len(self.sides) > 1 else []
        self.axes = [axis for axis in axes if self.sides[axis] <= max_factor]
        self.t = -1

    def rotate(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = multiply(x, self.basis[axis].T, axis)
        return x

    def rotate_back(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = multiply(x, self.basis[axis], axis)
        return x

    def step(
        self,
        grad: Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        factor_beta: float,
        precondition_every: int,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        offset: int = 0,
    ) -> None:
        g = grad.reshape(self.sides)
        self.t += 1
        if self.t == 0:
            self.m = torch.zeros_like(g)
            self.v = torch.zeros_like(g)
            self.factor, self.basis = {}, {}
            for axis in self.axes:
                self.factor[axis] = (1 - factor_beta) * unfold(g, axis) @ unfold(g, axis).T
                self.basis[axis] = torch.linalg.eigh(self.factor[axis])[1].flip(1)
            return
        rotated = self.rotate(g)
        self.m = betas[0] * self.m + (1 - betas[0]) * rotated
        self.v = betas[1] * self.v + (1 - betas[1]) * rotated**2
        size = lr * sqrt(1 - betas[1] ** self.t) / (1 - betas[0] ** self.t)
        update = self.rotate_back(self.m / (self.v.sqrt() + eps))
        self.value = self.value - size * update.reshape(self.value.shape)
        self.value = self.value * (1 - lr * weight_decay)
        for axis in self.axes:
            moment = unfold(g, axis) @ unfold(g, axis).T
            self.factor[axis] = factor_beta * self.factor[axis] + (1 - factor_beta) * moment
        if (self.t + offset) % precondition_every == 0:
            self.refresh()

    def refresh(self) -> None:
        unrotated = self.rotate_back(self.m)
        for axis in self.axes:
            factor, basis = self.factor[axis], self.basis[axis]
            order = (basis.T @ factor @ basis).diagonal().argsort(descending=True)
            self.v = self.v.index_select(axis, order)
            q, r = torch.linalg.qr(factor @ basis[:, order])
            for column in range(len(order)):
                if r[column, column] < 0:
                    q[:, column] = -q[:, column]
            self.basis[axis] = q
        self.m = self.rotate(unrotated)
