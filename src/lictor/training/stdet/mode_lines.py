"""The modes of a run: which line each weight has, which weights are on theirs, and what is next."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lictor.training.stdet.embedding import Embedding
from lictor.training.stdet.flat import FlatParameters, edit_flat
from lictor.training.stdet.history import History
from lictor.training.stdet.modes import AffineStats, assign, find_references, sample_indices
from lictor.training.stdet.selection import Scores

# The weights of a mode that hardly follow its reference are better left alone.
LEAST_MODE_CORRELATION = 0.5
# For the picture of a run: so many weights of each mode are written down at every snapshot.
_TRACKED_PER_MODE = 4
# And correlations are those of about so many weights, evenly spaced: all of them would take as long
# as a training step.
_WATCHED = 2**14


class ModeLines:
    """Modes with the running fit of every weight's line, and the set of embedded weights.

    Args:
        parameters: the weights as one vector of length `n`.
        mode: each weight's mode, `n`.
        references: the place of each mode's reference in the vector, `m`.
        correlation: of each weight with its reference over the first snapshots, `n`, in [-1, 1].
        tracked: places of weights to be written down at every snapshot.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        mode: Int[Tensor, " n"],
        references: Int[Tensor, " m"],
        correlation: Float[Tensor, " n"],
        tracked: list[int],
    ):
        self.parameters = parameters
        self.correlation = correlation
        self.tracked = tracked
        self.stats = AffineStats(mode, references)
        self.embedding = Embedding(parameters, mode, references)
        self._watched = torch.arange(0, len(parameters), max(1, len(parameters) // _WATCHED))
        self.dummies = torch.zeros(len(parameters), dtype=torch.bool)
        # Lines at the last event: drift is counted from them, and dummies sit on them.
        self.slope, self.offset = torch.zeros(0), torch.zeros(0)

    @classmethod
    def find(
        cls, parameters: FlatParameters, history: History, *, modes: int, samples: int, seed: int
    ) -> "ModeLines":
        """Cluster a sample of the trajectories, assign all weights, fit their lines.

        Raises `ConfigError` when that cannot be done.
        """
        generator = np.random.default_rng(seed)
        sampled = sample_indices(parameters.sizes, samples, generator)
        trajectories = history.of(sampled)
        found = find_references(trajectories, modes)
        references = torch.from_numpy(sampled[found])
        mode, correlation = assign(history.chunks(), trajectories[found])
        mode[references] = torch.arange(len(references), dtype=mode.dtype)
        tracked = references.tolist()
        for number in range(len(references)):
            members = torch.nonzero(mode == number).flatten().numpy()
            chosen = generator.choice(members, min(_TRACKED_PER_MODE, len(members)), replace=False)
            tracked += sorted(set(chosen.tolist()) - set(tracked))
        result = cls(parameters, mode, references, correlation, tracked)
        for number in range(history.count):
            result.stats.update(history.row(number))
        result.slope, result.offset = result.stats.coefficients()
        return result

    def description(self, history: History) -> dict[str, Any]:
        """Return what the modes are, ready for JSON, with the trajectories of tracked weights."""
        mode, references = self.stats.mode, self.stats.references
        return {
            "references": [self.parameters.describe(place) for place in references.tolist()],
            "sizes": torch.bincount(mode, minlength=len(references)).tolist(),
            "correlation": self.mean_correlations(self.correlation),
            "parameters": list(self.parameters.names),
            "parameter_sizes": list(self.parameters.sizes),
            "tracked": [self.parameters.describe(place) for place in self.tracked],
            "tracked_modes": mode[self.tracked].tolist(),
            "trajectories": history.of(np.array(self.tracked)).tolist(),
        }

    def mean_correlations(
        self, correlation: Float[Tensor, " k"], at: Int[Tensor, " k"] | None = None
    ) -> list[float]:
        """Return each mode's mean absolute correlation, of all weights or of those at places.

        Weights that never move follow nothing, and are not counted.
        """
        moving = correlation != 0
        mode = self.stats.mode[slice(None) if at is None else at][moving].long()
        count = len(self.stats.references)
        sums = torch.bincount(mode, correlation[moving].abs().double(), minlength=count)
        return (sums / torch.bincount(mode, minlength=count).clamp_min(1)).tolist()

    def candidates(self, least_correlation: float) -> Bool[Tensor, " n"]:
        """Return which weights may be embedded: not in yet, no reference, moving, modal enough."""
        tight = torch.tensor(self.mean_correlations(self.correlation)) >= LEAST_MODE_CORRELATION
        allowed = ~self.embedding.embedded & (self.stats.square > 0)
        allowed &= tight[self.stats.mode.long()]
        allowed &= self.correlation.abs() >= least_correlation
        allowed[self.stats.references] = False
        return allowed

    def scores(
        self,
        weights: Float[Tensor, " n"],
        sensitivity: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
        least_correlation: float,
    ) -> Scores:
        """Return what a selection goes by; `sensitivity` is told how far weights are to move."""
        slope, offset = self.stats.coefficients()
        level = weights[self.stats.references][self.stats.mode.long()]
        return Scores(
            self.candidates(least_correlation),
            torch.hypot(slope - self.slope, offset - self.offset),
            sensitivity(torch.addcmul(offset, slope, level) - weights),
        )

    def embed(
        self,
        true: Bool[Tensor, " n"],
        dummies: Bool[Tensor, " n"],
        weights: Float[Tensor, " n"],
        *,
        anchor: bool,
    ) -> None:
        """Embed the first set; remember the second, and today's lines.

        With `anchor` a line goes through `weights`, the value that the weight has.
        """
        self.slope, self.offset = self.stats.coefficients()
        level = weights[self.stats.references].double()[self.stats.mode.long()]
        through = (weights.double() - self.slope.double() * level).float()
        self.embedding.add(true, self.slope, through if anchor else self.offset)
        self.dummies = dummies

    @torch.no_grad()
    def project_dummies(self, value_of: Callable[[nn.Parameter], Tensor]) -> None:
        """Put the dummies of the last event on the lines that were fitted then."""
        values = self.parameters.gather(value_of)
        level = values.cpu()[self.stats.references][self.stats.mode.long()]
        lines = torch.addcmul(self.offset, self.slope, level)
        sizes = self.parameters.sizes
        for p, line, inside in zip(
            self.parameters.parameters, lines.split(sizes), self.dummies.split(sizes), strict=True
        ):
            if inside.any():
                line, inside = line.to(p.device), inside.to(p.device)
                edit_flat(
                    value_of(p),
                    lambda v, line=line, inside=inside: v.copy_(torch.where(inside, line, v)),
                )

    def measurements(self, weights: Float[Tensor, " n"]) -> dict[str, Any]:
        """Return correlations, embedded shares, and the tracked weights with their lines."""
        tracked = torch.tensor(self.tracked)
        slope, offset = self.stats.coefficients(tracked)
        inside = self.embedding.embedded[tracked]
        if len(self.embedding.slope):
            slope = torch.where(inside, self.embedding.slope[tracked], slope)
            offset = torch.where(inside, self.embedding.offset[tracked], offset)
        watched = self.stats.correlation(self._watched)
        numbers = range(len(self.parameters.parameters))
        return {
            "correlation": self.mean_correlations(watched, self._watched),
            "shares": [round(self.embedding.share_of(number), 6) for number in numbers],
            "tracked": weights[tracked].tolist(),
            "slope": slope.tolist(),
            "offset": offset.tolist(),
            "tracked_embedded": inside.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for `from_state`."""
        return {
            "mode": self.stats.mode,
            "references": self.stats.references,
            "correlation": self.correlation,
            "tracked": self.tracked,
            "stats": self.stats.state_dict(),
            "embedding": self.embedding.state_dict(),
            "dummies": self.dummies,
            "slope": self.slope,
            "offset": self.offset,
        }

    @classmethod
    def from_state(cls, parameters: FlatParameters, state: dict[str, Any]) -> "ModeLines":
        """Restore what `state_dict` returned; the tensors are taken over."""
        names = ("mode", "references", "correlation", "tracked")
        result = cls(parameters, *(state[name] for name in names))
        result.stats.load_state_dict(state["stats"])
        result.embedding.load_state_dict(state["embedding"])
        result.dummies = state["dummies"]
        result.slope, result.offset = state["slope"], state["offset"]
        return result
