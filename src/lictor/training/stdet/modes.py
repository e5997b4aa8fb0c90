"""Modes: groups of weights whose trajectories are nearly affine images of one of them.

A trajectory is a weight's value at `t` snapshots. A sample of trajectories is clustered by how they
correlate, the one that correlates best with its cluster becomes the mode's reference, and every
weight joins the reference that it correlates with most, of either sign.

Source: Brokman et al., ICLR 2024 (arXiv:2312.13247), on which STDET (arXiv:2505.18107) builds; the
rules of sampling, clustering and assignment are those of the first paper's code.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from lictor.errors import ConfigError

# With fewer, trajectories that have nothing in common correlate by chance: 0.6 at three snapshots.
MIN_SNAPSHOTS = 10
_CHUNK = 2**20


def sample_sizes(sizes: Sequence[int], count: int) -> list[int]:
    """Return how many weights to sample of each tensor: half evenly, half by size.

    With too few samples for that, fewer than two for each tensor, the list is empty: draw from all
    weights alike.
    """
    if count < 2 * len(sizes):
        return []
    total, half = sum(sizes), count / 2
    quotas = [min(int(half / len(sizes)), size) for size in sizes]
    for k, size in enumerate(sizes):
        more = int(size / total * half)
        quotas[k] += more if more <= size - quotas[k] else 0
    while (left := count - sum(quotas)) > 0:
        room = [size - quota for size, quota in zip(sizes, quotas, strict=True)]
        open_ = [k for k in range(len(sizes)) if room[k]]
        # To the tensor with the fewest samples that can take all; the largest room if none can.
        whole = [k for k in open_ if room[k] >= left]
        k = min(whole, key=lambda k: quotas[k]) if whole else max(open_, key=lambda k: room[k])
        quotas[k] += min(left, room[k])
    return quotas


def sample_indices(
    sizes: Sequence[int], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """Return `count` distinct places, ascending, in the vector of tensors of these sizes.

    Raises `ConfigError` when there are not so many weights.
    """
    total = sum(sizes)
    if not 1 <= count <= total:
        raise ConfigError(f"stdet.samples = {count}, but there are {total} weights to sample from")
    quotas = sample_sizes(sizes, count)
    if not quotas:
        return np.sort(generator.choice(total, count, replace=False))
    starts = np.cumsum([0, *sizes])[:-1]
    parts = [
        start + generator.choice(size, quota, replace=False)
        for start, size, quota in zip(starts, sizes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def _unit(trajectories: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Return trajectories less their mean, of norm 1; constant ones become zero."""
    moved = trajectories - trajectories[:, :1]  # weights move by far less than their size
    moved -= moved.mean(1, keepdim=True)
    norm = moved.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, moved / norm, 0.0)


def correlation(first: Float[Tensor, "n t"], second: Float[Tensor, "m t"]) -> Float[Tensor, "n m"]:
    """Return the Pearson correlations of trajectories, in [-1, 1]; 0 with a constant one."""
    return (_unit(first) @ _unit(second).T).clamp(-1, 1)


def find_references(trajectories: Float[Tensor, "k t"], count: int) -> list[int]:
    """Return which of the sampled trajectories are the references of up to `count` modes.

    Larger modes come first. The clustering is hierarchical with complete linkage on the Euclidean
    distances between the rows of absolute correlations. Raises `ConfigError` for fewer samples than
    modes, too few snapshots, or weights that never moved.
    """
    samples, snapshots = trajectories.shape
    if snapshots < MIN_SNAPSHOTS:
        raise ConfigError(
            f"stdet: {snapshots} snapshots are too few to find modes in; "
            f"stdet.warmup must be at least {MIN_SNAPSHOTS - 1}"
        )
    if samples < count:
        raise ConfigError(f"stdet.modes = {count} of only {samples} sampled weights")
    moving = torch.nonzero(_unit(trajectories).any(1)).flatten()
    if len(moving) < max(2, count):
        raise ConfigError(
            f"stdet: only {len(moving)} of {samples} sampled weights have moved; is anything "
            "trained?"
        )
    absolute = correlation(trajectories[moving], trajectories[moving]).abs().double().numpy()
    squares = (absolute**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * absolute @ absolute.T, 0))
    tree = linkage(distances[np.triu_indices(len(distances), 1)], method="complete")
    labels = fcluster(tree, count, criterion="maxclust")
    references: list[tuple[int, int]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best = members[int(absolute[np.ix_(members, members)].mean(1).argmax())]
        references.append((-len(members), int(moving[best])))
    return [place for _, place in sorted(references)]


def assign(
    rows: Iterator[Float[Tensor, "c t"]], references: Float[Tensor, "m t"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Return each weight's mode, and its correlation with the mode's reference, with its sign.

    `rows` yields the trajectories in pieces, so that they need not be in memory at once.
    """
    modes, correlations = list[Tensor](), list[Tensor]()
    for chunk in rows:
        signed = correlation(chunk, references)
        mode = signed.abs().argmax(1)
        modes.append(mode.to(torch.int32))
        correlations.append(signed.gather(1, mode[:, None]).squeeze(1).float())
    return torch.cat(modes), torch.cat(correlations)


class AffineStats:
    """Running least squares of every weight against its mode's reference: `w ~ a w_ref + b`.

    All snapshots weigh the same. Sums are of deviations from the first snapshot: weights move by
    far less than their size, and raw normal equations in float32 give slopes of the wrong sign.

    Args:
        mode: the mode of each weight.
        references: the place of each mode's reference in the vector.
        dtype: of the sums. float32 takes 16 bytes a weight.
    """

    def __init__(
        self,
        mode: Int[Tensor, " n"],
        references: Int[Tensor, " m"],
        *,
        dtype: torch.dtype = torch.float32,
    ):
        self.mode, self.references, self.dtype = mode, references, dtype
        self.count = 0
        self.first = torch.zeros(0, dtype=dtype)
        self.mean, self.joint, self.square = (torch.zeros(len(mode), dtype=dtype) for _ in range(3))
        self.ref_mean, self.ref_square = (
            torch.zeros(len(references), dtype=torch.float64) for _ in range(2)
        )

    def update(self, weights: Float[Tensor, " n"]) -> None:
        """Take in a snapshot of all weights."""
        weights = weights.to(self.dtype)
        if self.count == 0:
            self.first = weights.clone()
        self.count += 1
        ref = (weights[self.references] - self.first[self.references]).double()
        self.ref_mean += (ref - self.ref_mean) / self.count
        after = ref - self.ref_mean  # from the new mean, as Welford's co-moments need
        self.ref_square += after * after * self.count / max(self.count - 1, 1)
        after = after.to(self.dtype)
        for start in range(0, len(self.mode), _CHUNK):
            part = slice(start, start + _CHUNK)
            mean = self.mean[part]
            delta = (weights[part] - self.first[part]).sub_(mean)
            self.joint[part].addcmul_(delta, after[self.mode[part].long()])
            self.square[part].addcmul_(delta, delta, value=(self.count - 1) / self.count)
            mean.add_(delta, alpha=1 / self.count)

    def coefficients(
        self, at: Int[Tensor, " k"] | None = None
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Return slopes and offsets of all weights, or of those at some places.

        A reference has 1 and 0; where the reference has never moved, a weight has 0 and its mean.
        """
        part = slice(None) if at is None else at
        mode = self.mode[part].long()
        still = self.ref_square <= 0
        inverse = torch.where(still, 0.0, 1 / self.ref_square.clamp_min(1e-300))
        slope = self.joint[part].double() * inverse[mode]
        ref_level = self.first[self.references].double() + self.ref_mean
        offset = self.first[part].double() + self.mean[part].double() - slope * ref_level[mode]
        if at is None:
            own, moves = self.references, ~still
        else:
            own = torch.nonzero(torch.isin(at, self.references)).flatten()
            moves = ~still[mode[own]]
        slope[own] = torch.where(moves, 1.0, slope[own])
        offset[own] = torch.where(moves, 0.0, offset[own])
        return slope.to(self.dtype), offset.to(self.dtype)

    def correlation(self, at: Int[Tensor, " k"] | None = None) -> Float[Tensor, " k"]:
        """Return correlations with the reference so far; 0 where either has never moved."""
        part = slice(None) if at is None else at
        product = self.square[part].double() * self.ref_square[self.mode[part].long()]
        rho = self.joint[part].double() / product.clamp_min(1e-300).sqrt()
        return torch.where(product > 0, rho, 0.0).clamp(-1, 1).float()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the sums."""
        names = ("first", "mean", "joint", "square", "ref_mean", "ref_square")
        return {"count": self.count, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore the sums; the tensors are taken over."""
        for name, value in state.items():
            setattr(self, name, value)
