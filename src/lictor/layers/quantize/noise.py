"""The random numbers of a training step: a pure function of its number, of nothing else."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noise:
    """Where the noise of one step comes from.

    No generator has to be kept: a run that is resumed draws what it would have drawn, and processes
    beside each other (of different `rank`) draw different numbers without a word between them.
    `seed` is the run's, `step` counts from 0.
    """

    seed: int = 0
    step: int = 0
    rank: int = 0

    def generator(self, name: str, number: int, device: torch.device) -> torch.Generator:
        """Return a fresh generator for the `number`-th draw that is called `name`."""
        text = f"{self.seed} {self.step} {self.rank} {name} {number}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        # The CPU's generator looks at the lower 32 bits only, others refuse a sign.
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
