"""The trajectory of all weights: one row of float32 for each snapshot, on disk if given a place."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lictor.errors import CheckpointError, DataError

_CHUNK_BYTES = 2**26


class History:
    """Up to `capacity` snapshots of `size` weights, in a memory-mapped file or else in RAM.

    Without `keeps` they are only counted: another process keeps them. The space is reserved at
    once: a disk that fills up later would kill the process. Raises `DataError` when there is no
    room.
    """

    def __init__(self, size: int, capacity: int, path: Path | None = None, *, keeps: bool = True):
        self.size, self.capacity, self.path = size, capacity, path
        self.keeps = keeps
        self.count = 0
        self._rows: np.ndarray | None = None
        self._dropped = False
        self._needless = False  # a checkpoint that does without the file has been written

    @property
    def size_bytes(self) -> int:
        """Bytes that all snapshots take."""
        return 4 * self.size * self.capacity

    def _open(self, *, must_exist: bool = False) -> np.ndarray:
        if self._rows is not None:
            return self._rows
        shape = (self.capacity, self.size)
        if self.path is None:
            self._rows = np.zeros(shape, np.float32)
            return self._rows
        try:
            there = self.path.exists() and self.path.stat().st_size == self.size_bytes
            if must_exist and not there:
                raise CheckpointError(
                    f"{self.path}: the trajectory that the checkpoint goes on from is missing; "
                    "start the run anew"
                )
            if not there:
                self._reserve(self.path)
            self._rows = np.memmap(self.path, np.float32, "r+", shape=shape)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot keep {self.size_bytes / 2**20:.0f} MiB of trajectories "
                f"({error.strerror}); free some space, or take fewer snapshots (stdet.warmup)"
            ) from error
        return self._rows

    def _reserve(self, path: Path) -> None:
        """Make the file, all of it or nothing: one with holes would pass for a reserved one."""
        try:
            with path.open("wb") as file:
                file.truncate(self.size_bytes)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self.size_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def append(self, weights: Float[Tensor, " n"]) -> None:
        """Keep a snapshot; raises `DataError` when there is no room."""
        if self.keeps:
            self._open()[self.count] = weights.float().numpy()
        self.count += 1

    def row(self, number: int) -> Float[Tensor, " n"]:
        """Return a snapshot."""
        return torch.from_numpy(np.array(self._open()[number]))

    def of(self, indices: Int[np.ndarray, " k"]) -> Float[Tensor, "k t"]:
        """Return some weights' trajectories."""
        return torch.from_numpy(np.array(self._open()[: self.count, indices]).T.copy())

    def chunks(self) -> Iterator[Float[Tensor, "c t"]]:
        """Yield all trajectories in order, as many at a time as fit into 64 MiB."""
        rows = self._open()
        step = max(1, _CHUNK_BYTES // (4 * self.count))
        for start in range(0, self.size, step):
            piece = np.array(rows[: self.count, start : start + step])
            yield torch.from_numpy(piece.T.copy())

    def drop(self) -> None:
        """Let go of the snapshots.

        The file stays until the second `state_dict` from here: only then is a checkpoint written
        that does without it.
        """
        self._rows, self.count, self._dropped = None, 0, True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: the snapshots, unless their file has them."""
        rows: Tensor | None = None
        if self._dropped and self.path is not None:
            if self._needless:
                self.path.unlink(missing_ok=True)
            self._needless = True
        if self.count and self.path is None:
            rows = torch.from_numpy(self._open()[: self.count].copy())
        elif self.count:
            mapped = self._open()
            assert isinstance(mapped, np.memmap)
            mapped.flush()
        return {"count": self.count, "rows": rows, "dropped": self._dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the snapshots; raises `CheckpointError` when their file is gone."""
        self.count = state["count"]
        self._dropped = self._needless = state["dropped"]
        if not (self.count and self.keeps):
            return
        rows = self._open(must_exist=state["rows"] is None)
        if state["rows"] is not None:
            rows[: self.count] = state["rows"].numpy()
