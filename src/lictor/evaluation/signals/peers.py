"""Which traditional codecs stand beside ours, for each kind of signal."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from lictor.evaluation.peers import PEERS, Peer
from lictor.evaluation.signals.array_peers import Sz3, Zfp, imagecodecs_version
from lictor.evaluation.signals.audio_peers import Flac, Mp3, Opus, soundfile_version
from lictor.evaluation.signals.coder import SignalCoder
from lictor.evaluation.signals.slice_peers import (
    Jpeg2000Planes,
    JpegXlPlanes,
    PicturePeer,
    X265Planes,
    ffmpeg_version,
)


@dataclass(frozen=True)
class SignalPeer:
    """A codec that needs no training: how to make it at a quality, and the usual sweep.

    Args:
        label: what people call it.
        make: the codec at a quality.
        qualities: of the usual sweep.
        description: with the meaning of the quality.
        library: version of what does the work; raises `ConfigError` where that is missing.
        lowest: quality.
        highest: quality.
        stacks: whether a file of several items is more than its items, one after the other.
    """

    label: str
    make: Callable[[float], SignalCoder]
    qualities: tuple[float, ...]
    description: str
    library: Callable[[], str | None]
    lowest: float
    highest: float
    stacks: bool = False


_SZ3 = SignalPeer(
    "SZ3",
    Sz3,
    (0.2, 0.1, 0.05, 0.02, 0.01, 0.005),
    "SZ3, absolute error at most this share of the file's range",
    partial(imagecodecs_version, "sz3"),
    1e-7,
    1,
    stacks=True,
)
# ZFP's bound is far above its errors: at twice the range it still has 30 dB.
_ZFP = SignalPeer(
    "ZFP",
    Zfp,
    (8, 4, 2, 1, 0.5, 0.2),
    "ZFP, absolute error at most this share of the file's range",
    partial(imagecodecs_version, "zfp"),
    1e-7,
    64,
    stacks=True,
)
_JPEG2000 = SignalPeer(
    "JPEG 2000",
    Jpeg2000Planes,
    (25, 30, 35, 40, 45, 50),
    "JPEG 2000, 9/7 wavelet, each slice at this PSNR in dB, 8 or 16 bits",
    partial(imagecodecs_version, "jpeg2k"),
    1,
    140,
)
_JPEGXL = SignalPeer(
    "JPEG XL",
    JpegXlPlanes,
    (10, 30, 55, 75, 86, 93),
    "JPEG XL, each slice at this quality, effort 7, 8 or 16 bits",
    partial(imagecodecs_version, "jpegxl"),
    0,
    100,
)


def _picture_peer(name: str, peer: Peer) -> SignalPeer:
    return SignalPeer(
        peer.label,
        partial(PicturePeer, name),
        peer.qualities,
        peer.description,
        peer.library,
        peer.lowest,
        peer.highest,
    )


_AUDIO = {
    "mp3": SignalPeer(
        "MP3",
        Mp3,
        (16, 24, 32, 48, 64),
        "MP3 (LAME), constant rate in kbps",
        partial(soundfile_version, "MP3"),
        8,
        320,
    ),
    "opus": SignalPeer(
        "Opus",
        Opus,
        (8, 12, 16, 24, 32, 64),
        "Opus in Ogg, target rate in kbps and channel",
        partial(soundfile_version, "OGG"),
        6,
        256,
    ),
    "flac": SignalPeer(
        "FLAC",
        Flac,
        (4, 5, 6, 7, 8, 10, 12, 16),
        "FLAC, this many bits a sample",
        partial(soundfile_version, "FLAC"),
        4,
        16,
    ),
}
_VOLUME = {
    "jpeg2000": _JPEG2000,
    "jpegxl": _JPEGXL,
    "sz3": _SZ3,
    "zfp": _ZFP,
    "x265": SignalPeer(
        "x265",
        X265Planes,
        (45, 38, 32, 26, 20, 14),
        "x265, each slice alone (intra), 8 bits, quality is the rate factor",
        ffmpeg_version,
        0,
        51,
        stacks=True,
    ),
}
SIGNAL_PEERS = MappingProxyType(
    {
        "image": {name: _picture_peer(name, peer) for name, peer in PEERS.items()},
        "audio": _AUDIO,
        "volume": _VOLUME,
        "field": {"jpeg2000": _JPEG2000, "jpegxl": _JPEGXL, "sz3": _SZ3, "zfp": _ZFP},
        "array": {"sz3": _SZ3, "zfp": _ZFP},
    }
)
