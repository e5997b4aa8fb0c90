"""`lictor info`: what a file is, read off its header; nothing is decoded."""

import json as json_module
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from lictor.cli.messages import say
from lictor.errors import BitstreamError, CheckpointError
from lictor.files import STANDARD, read_file, read_standard_input

LCODEC = ".lcodec"
_SHOWN = 20


def info(file: Positional[Path], /, *, json: bool = False, margins: bool = False) -> int:
    """Say what a .lic, .lsig or .lcodec file is, without decoding it.

    Args:
        file: The file to look at (- is standard input), or the name of a codec that ships with
            lictor.
        json: Print one JSON object.
        margins: Of a codec: say how large the sums of its integer networks can become, and how many
            bits that leaves below 2^52, up to which they are exact.
    """
    description = _margins(file) if margins else _describe(file)
    if json:
        say(json_module.dumps(description, indent=2))
        return 0
    signals, sections = description.pop("signals", []), description.pop("sections", {})
    width = max(map(len, description))
    for key, value in description.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        say(f"{key:{width}}  {shown}")
    for name, size in sections.items():
        say(f"  section {name}: {size} bytes")
    for signal in signals[:_SHOWN]:
        say(_line(signal))
    if len(signals) > _SHOWN:
        say(f"... and {len(signals) - _SHOWN} more; --json lists them all")
    return 0


def _line(signal: dict[str, Any]) -> str:
    """Return what there is to say of a signal of a file."""
    parts = [repr(signal["name"])] if signal["name"] else []
    parts += [signal["kind"], signal["dtype"], f"{signal['items']} x {signal['grid']}"]
    parts += [f"channels {signal['channels']}"]
    parts += [f"missing {signal['missing']}"] if signal["missing"] else []
    parts += [f"{k} {v}" for k, v in signal["form"].items() if isinstance(v, int | float | str)]
    return "  " + "  ".join(parts)


def _describe(path: Path) -> dict[str, Any]:
    from lictor.codecs.shipped import is_name, shipped_codec
    from lictor.coding import archive
    from lictor.coding.container import MAGIC

    if is_name(path) and not path.is_file() and str(path) != STANDARD:
        path = shipped_codec(str(path))
    if path.suffix == LCODEC:
        return _describe_codec(path)
    data = _content(path)
    if data.startswith(archive.MAGIC):
        return _named(path, data, _describe_signals)
    if not data.startswith(MAGIC) and data[:64].find(b"{") == 8:  # a safetensors header
        return _describe_codec(path)
    return _named(path, data, _describe_picture)


def _content(path: Path) -> bytes:
    return read_standard_input() if str(path) == STANDARD else read_file(path)


def _named(path: Path, data: bytes, describe: Any) -> dict[str, Any]:
    try:
        return describe(path, data)
    except BitstreamError as error:
        raise type(error)(f"{path}: {error}") from error


def _describe_picture(path: Path, data: bytes) -> dict[str, Any]:
    from lictor.coding.container import Container, name_of, version_of
    from lictor.rates import bpp

    file = Container.from_bytes(data)
    sections = {name_of(kind): len(body) for kind, body in file.sections.items()}
    return {
        "kind": "image",
        "file": str(path),
        "version": version_of(data),
        "width": file.width,
        "height": file.height,
        "channels": file.channels,
        "tiles": len(file.tiles),
        "fingerprint": file.fingerprint.hex(),
        "bytes": len(data),
        "payload_bytes": file.payload_bytes,
        "bpp": bpp(len(data), file.height, file.width),
        "symbol_crc": f"{file.symbol_crc:08x}",
        "sections": {
            "tiles": file.payload_bytes,
            **{name.removeprefix("the section "): size for name, size in sections.items()},
        },
    }


def _describe_signals(path: Path, data: bytes) -> dict[str, Any]:
    from lictor.coding.archive import VERSION, Archive

    file = Archive.from_bytes(data)
    samples = sum(entry.outline.points * entry.outline.channels for entry in file.entries)
    return {
        "kind": "signals",
        "file": str(path),
        "version": VERSION,
        "archive": file.named,
        "count": len(file.entries),
        "quality": file.quality,
        "fingerprint": file.fingerprint.hex(),
        "bytes": len(data),
        "payload_bytes": len(file.payload),
        "samples": samples,
        "bits_per_sample": 8 * len(data) / samples,
        "symbol_crc": f"{file.symbol_crc:04x}",
        "signals": [
            {
                "name": entry.name,
                "kind": entry.outline.kind,
                "dtype": entry.outline.dtype,
                "items": entry.outline.items,
                "grid": list(entry.outline.grid),
                "channels": entry.outline.channels,
                "missing": 0 if entry.mask is None else int((~entry.mask).sum()),
                "form": dict(entry.form or {}),
            }
            for entry in file.entries
        ],
    }


def _describe_codec(path: Path) -> dict[str, Any]:
    from lictor.cli.codec_file import is_of_signals

    if is_of_signals(path):
        from lictor.codecs.signals.codec import SignalCodec

        return {
            "kind": "codec of signals",
            "file": str(path),
            "bytes": path.stat().st_size,
            **SignalCodec.load(path).describe(),
        }
    from lictor.coding.codec_file import read_codec_file

    codec = read_codec_file(path)
    config = {key: value for key, value in codec.config.items() if key != "path"}
    if "quantization" in config:
        config["quantization"] = config["quantization"]["scheme"]
    if codec.replaces:
        config["replaces"] = [former.hex() for former in codec.replaces]
    return {
        "kind": "codec",
        "file": str(path),
        **config,
        "exact": codec.path is not None,
        "fingerprint": codec.fingerprint.hex(),
        "parameters": codec.weights,
        "weights": codec.weight_dtype,
        "notes": codec.notes,
    }


def _margins(path: Path) -> dict[str, Any]:
    """Return the margins of a codec's networks as lines."""
    from lictor.codecs.shipped import find_codec
    from lictor.coding.codec_file import read_codec_file
    from lictor.coding.program import check

    path = find_codec(path)
    codec = read_codec_file(path)
    if codec.path is None:
        raise CheckpointError(f"{path}: is of a former format; `lictor convert` makes it exact")
    lines: dict[str, Any] = {"kind": "codec", "file": str(path)}
    for name, ops in codec.path.networks.items():
        for number, margin in enumerate(check(ops, codec.path.channels[name])):
            text = f"up to 2^{52 - margin.spare_bits:.1f}, {margin.spare_bits:.1f} bits to spare"
            lines[f"{name} {number + 1} {margin.op}"] = text
    return lines
