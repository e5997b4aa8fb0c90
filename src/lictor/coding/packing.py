"""Integers of a few bits, packed into bytes."""

import numpy as np
from jaxtyping import UInt8

from lictor.errors import CheckpointError

MIN_BITS, MAX_BITS = 2, 16


def pack_codes(codes: np.ndarray, bits: int) -> UInt8[np.ndarray, " bytes"]:
    """Pack integers from `-2^(bits-1)`, in C order, `bits` bits each, the lowest bit first."""
    shifted = (codes.ravel() + 2 ** (bits - 1)).astype(np.uint16)
    if bits == 8:
        return shifted.astype(np.uint8)
    table = (shifted[:, None] >> np.arange(bits, dtype=np.uint16)) & 1
    return np.packbits(table.astype(np.uint8).ravel(), bitorder="little")


def unpack_codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Undo `pack_codes`; returns int32. Raises `CheckpointError` when the sizes do not match."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise CheckpointError(f"packed integers have {MIN_BITS} to {MAX_BITS} bits, not {bits}")
    if packed.dtype != np.uint8 or packed.size != -(-count * bits // 8):
        raise CheckpointError(
            f"{count} weights of {bits} bits need {-(-count * bits // 8)} bytes, "
            f"not {packed.size} of {packed.dtype}"
        )
    table = np.unpackbits(packed.ravel(), count=count * bits, bitorder="little")
    powers = 1 << np.arange(bits, dtype=np.int32)
    return table.reshape(count, bits).astype(np.int32) @ powers - 2 ** (bits - 1)
