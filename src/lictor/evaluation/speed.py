"""What a codec costs: seconds, multiplications, parameters, memory.

Seconds are of warm calls: each picture goes through the codec once before its clock starts. What
the networks multiply is counted while the codec's own `encode` and `decode` run, so it is what they
do and not what they are said to do. Memory is the peak of a fresh process that makes the codec and
handles one picture.
"""

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from lictor.codecs.protocol import ImageCodec, NetworkCodec
from lictor.coding.stopwatch import Clock, time_coding
from lictor.errors import ConfigError, DataError, LictorError
from lictor.evaluation.provenance import cpu_name
from lictor.runtime import peak_rss_bytes

OTHER_PART = "other"  # multiplications outside of a model's submodules
_COUNTED_SIDE = 512  # pixels; the smallest multiple of the stride from here on is counted
_OF_THE_MACHINE = ("cpu", "torch_version")


@dataclass(frozen=True)
class Speed:
    """What a codec costs on some pictures; None where a number does not exist.

    Seconds are medians over pictures of medians over `repeats` warm calls. An entropy share is the
    part of a call, from 0 to 1, that the integer coder of `lictor.coding` takes.

    `kmac_per_pixel` has, for each submodule of the model, thousands of multiplications with
    addition per pixel of a picture that needs no padding; `kmac_per_pixel_encode` and `_decode` are
    the sums of the parts that run in a call. Convolutions and matrix products count, at the
    precision they run in; additions and activations do not.

    The baseline is the peak memory of a process that has imported lictor (and with it torch), the
    other two that of one that has also made the codec and coded the largest picture; memory of
    programs that the codec starts is not in it. `threads` are torch's.
    """

    encode_s: float
    decode_s: float
    encode_s_per_megapixel: float
    decode_s_per_megapixel: float
    encode_entropy_share: float | None
    decode_entropy_share: float | None
    peak_rss_encode_bytes: int | None
    peak_rss_decode_bytes: int | None
    baseline_rss_bytes: int | None
    parameters: int | None
    kmac_per_pixel: Mapping[str, float]
    kmac_per_pixel_encode: float | None
    kmac_per_pixel_decode: float | None
    threads: int
    repeats: int
    num_images: int
    cpu: str
    torch_version: str

    def to_json(self) -> dict[str, Any]:
        """Return the codec's costs as plain values; `cpu` and `torch_version` stay out.

        A result's provenance tells these once for all its codecs.
        """
        return {key: value for key, value in asdict(self).items() if key not in _OF_THE_MACHINE}


@dataclass(frozen=True)
class _Timing:
    """Medians of one picture or of all; a share is None where the integer coder never ran."""

    encode_s: float
    decode_s: float
    encode_s_per_megapixel: float
    decode_s_per_megapixel: float
    encode_entropy_share: float | None
    decode_entropy_share: float | None


@dataclass(frozen=True)
class _Work:
    parameters: int | None = None
    kmac_per_pixel: Mapping[str, float] = field(default_factory=dict)
    kmac_per_pixel_encode: float | None = None
    kmac_per_pixel_decode: float | None = None


@dataclass(frozen=True)
class _Memory:
    peak_rss_encode_bytes: int | None = None
    peak_rss_decode_bytes: int | None = None
    baseline_rss_bytes: int | None = None


def measure_speed(
    codec: ImageCodec,
    images: Sequence[UInt8[np.ndarray, "_ _ _"]],
    *,
    repeats: int = 5,
    make: Callable[[], ImageCodec] | None = None,
    clock: Clock = time.perf_counter,
) -> Speed:
    """Measure what `codec` costs on `images` (uint8 `h w c`, each of its own size).

    `make` builds the same codec in a fresh process, to measure memory there: something that can be
    pickled, such as `Codec.default` or `partial(Codec.load, path)`; None leaves memory out. As with
    every spawned process, a script that calls this with `make` needs `if __name__ == "__main__"`.
    `clock` returns seconds. Raises `DataError` without images, `ConfigError` when `repeats` is
    below 1 or `make` cannot be pickled, `LictorError` when the fresh process dies, and what the
    codec raises.
    """
    if not images:
        raise DataError("the speed of a codec needs at least one picture")
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, not {repeats}")
    if make is not None:
        _check_picklable(make)
    timing = _timing_of_all([_timing(codec, image, repeats, clock) for image in images])
    work = _work(codec) if isinstance(codec, NetworkCodec) else _Work()
    memory = _Memory()
    if make is not None:  # after the timing: what numba compiled is on disk by now
        largest = max(images, key=lambda image: image.size)
        memory = _memory(make, largest, codec.encode(largest))
    return Speed(
        **asdict(timing),
        **asdict(memory),
        **asdict(work),
        threads=torch.get_num_threads(),
        repeats=repeats,
        num_images=len(images),
        cpu=cpu_name(),
        torch_version=torch.__version__,
    )


# ------------------------------------------------------------------------------------------ time


def _timed_call(call: Callable[[], Any], clock: Clock) -> tuple[Any, float, float | None]:
    """Return what `call` gives, its seconds, and the integer coder's share of them."""
    with time_coding(clock) as coding:
        start = clock()
        result = call()
        seconds = clock() - start
    share = coding.seconds / seconds if coding.calls and seconds > 0 else None
    return result, seconds, share


def _timing(
    codec: ImageCodec, image: UInt8[np.ndarray, "h w c"], repeats: int, clock: Clock
) -> _Timing:
    """Time one picture: once to warm up, then in turns, as a user encodes and decodes."""
    codec.decode(codec.encode(image))
    encodes, decodes = [], []
    for _ in range(repeats):
        data, *encode = _timed_call(partial(codec.encode, image), clock)
        _, *decode = _timed_call(partial(codec.decode, data), clock)
        encodes.append(encode)
        decodes.append(decode)
    (encode_s, encode_shares), (decode_s, decode_shares) = (
        zip(*calls, strict=True) for calls in (encodes, decodes)
    )
    megapixels = image.shape[0] * image.shape[1] / 1e6
    return _Timing(
        median(encode_s),
        median(decode_s),
        median(encode_s) / megapixels,
        median(decode_s) / megapixels,
        _median_or_none(encode_shares),
        _median_or_none(decode_shares),
    )


def _timing_of_all(timings: Sequence[_Timing]) -> _Timing:
    rows = [asdict(timing) for timing in timings]
    return _Timing(**{key: _median_or_none([row[key] for row in rows]) for key in rows[0]})


def _median_or_none(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return median(known) if known else None


# ------------------------------------------------------------------------------- multiplications


def _work(codec: NetworkCodec) -> _Work:
    """Count a codec's parameters and multiplications, on a picture that needs no padding."""
    side = _COUNTED_SIDE + -_COUNTED_SIDE % codec.model.stride
    image = np.zeros((side, side, 3), np.uint8)
    encode, data = _kmac_per_pixel(codec.model, partial(codec.encode, image), side**2)
    decode, _ = _kmac_per_pixel(codec.model, partial(codec.decode, data), side**2)
    # A part that runs in both calls does the same in both; if one does not, the dearer counts.
    parts = {
        part: max(encode.get(part, 0.0), decode.get(part, 0.0)) for part in {**encode, **decode}
    }
    return _Work(codec.num_parameters, parts, sum(encode.values()), sum(decode.values()))


def _kmac_per_pixel(
    model: nn.Module, call: Callable[[], Any], num_pixels: int
) -> tuple[dict[str, float], Any]:
    """Return the thousands of multiplications of each of the model's parts in `call`, per pixel.

    Also returns what `call` gives.
    """
    # Imported here: a process that measures memory shall not carry its 80 MB.
    from torch.utils.flop_counter import FlopCounterMode

    macs: dict[str, int] = {}
    counter = FlopCounterMode(display=False)
    entered: list[int] = []  # the count at the entry of each part that is running

    def so_far() -> int:
        return counter.get_total_flops() // 2  # a multiplication and an addition are two

    def enter(_module: nn.Module, _args: Any) -> None:
        entered.append(so_far())

    def leave(part: str, _module: nn.Module, _args: Any, _output: Any) -> None:
        before = entered.pop()
        if not entered:  # a part that runs within another belongs to that one
            macs[part] = macs.get(part, 0) + so_far() - before

    with ExitStack() as stack:
        for name, part in model.named_children():
            stack.enter_context(part.register_forward_pre_hook(enter))
            stack.enter_context(part.register_forward_hook(partial(leave, name)))
        stack.enter_context(counter)
        result = call()
    if rest := so_far() - sum(macs.values()):
        macs[OTHER_PART] = rest
    return {part: count / num_pixels / 1000 for part, count in macs.items()}, result


# ---------------------------------------------------------------------------------------- memory


def _memory(
    make: Callable[[], ImageCodec], image: UInt8[np.ndarray, "h w c"], data: bytes
) -> _Memory:
    baseline, encode = _in_fresh_process(make, image)
    _, decode = _in_fresh_process(make, data)
    return _Memory(encode, decode, baseline)


def _check_picklable(make: Callable[[], ImageCodec]) -> None:
    try:
        pickle.dumps(make)
    except Exception as error:  # pickle lets through whatever an object's own methods raise
        raise ConfigError(
            f"make must be picklable, such as partial(Codec.load, path) ({error})"
        ) from error


def _in_fresh_process(
    make: Callable[[], ImageCodec], argument: UInt8[np.ndarray, "h w c"] | bytes
) -> tuple[int | None, int | None]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_peaks, make, argument, torch.get_num_threads()).result()
        except BrokenProcessPool as error:
            raise LictorError(
                "the process that measures memory died: out of memory, or a script without "
                'if __name__ == "__main__"'
            ) from error


def _peaks(
    make: Callable[[], ImageCodec], argument: UInt8[np.ndarray, "h w c"] | bytes, threads: int
) -> tuple[int | None, int | None]:
    """Return this process' peak memory before and after it codes a picture or decodes bytes."""
    torch.set_num_threads(threads)
    baseline = peak_rss_bytes()
    codec = make()
    _ = codec.decode(argument) if isinstance(argument, bytes) else codec.encode(argument)
    return baseline, peak_rss_bytes()
