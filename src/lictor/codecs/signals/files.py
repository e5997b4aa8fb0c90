"""Files of signals beside their compressed ones: reading, names, and what is said of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lictor.codecs.batch import LIC, LSIG, read_bitstream
from lictor.codecs.signals.codec import SignalCodec
from lictor.coding import container
from lictor.coding.archive import MAX_SAMPLES, Entry, Outline
from lictor.data.signals.formats import FORMATS, read_signal, suffix_of
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError, DataError, LictorError, NotABitstreamError

# What signals of a kind are restored as, where nobody says more.
PLAIN_SUFFIXES: Mapping[str, str] = {
    "image": ".png", "audio": ".wav", "volume": ".nii.gz", "field": ".nc", "array": ".npy",
}  # fmt: skip
# Formats that lose something again: results are not restored to these unasked.
_LOSSY = (".ogg",)


def read_for(codec: SignalCodec, source: str, variable: str | None = None) -> Signal:
    """Read a signal such as a codec is for; raises `DataError` when it is none of them."""
    domain, path = codec.domain, Path(source)
    suffix = path.suffix.lower()
    if suffix in (LIC, LSIG):
        raise DataError(
            f"{source}: {suffix} files are compressed already, and lictor decompress restores "
            "what they hold"
        )
    signal = read_signal(
        path,
        kind=domain.kind,
        axes=len(domain.grid),
        channels=domain.channels,
        variable=variable,
    )
    if signal.samples.size > MAX_SAMPLES:
        raise DataError(f"{source}: has more than {MAX_SAMPLES} samples; split it")
    try:
        domain.outline(signal)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return signal


def read_lsig(source: str) -> bytes:
    """Read a compressed file's bytes.

    Raises `DataError` if it cannot be read, `NotABitstreamError` for one of pictures.
    """
    data = read_bitstream(source)
    if data.startswith(container.MAGIC):
        raise NotABitstreamError(
            f"{source}: is a {LIC} file, and this is a codec of signals; leave out --codec, or "
            "name the codec of pictures that made it"
        )
    return data


def check_output(codec: SignalCodec, target: str) -> None:
    """Raise `ConfigError` when a signal of a codec's kind cannot be written to such a file."""
    kind, suffix = codec.domain.kind, suffix_of(Path(target))
    fit = [s for s, line in FORMATS.items() if line.write is not None and kind in line.kinds]
    if suffix not in fit:
        raise ConfigError(f"{target}: the output must end in one of {', '.join(fit)}")


def plain_suffix(codec: SignalCodec, entry: Entry) -> str:
    """Return the end of the file that a signal is restored as.

    That of its kind; .npy for what came out of an array, or what files of the kind do not hold.
    Raises `DataError` when the form is impossible.
    """
    outline, form = entry.outline, codec.domain.form_and_range(entry.form)[0]
    one = outline.items == 1
    picture = one and outline.dtype == "uint8" and outline.channels in (1, 3)
    holds = {
        "image": picture,
        "audio": one and outline.dtype in ("int16", "int32", "float32", "float64"),
        "volume": outline.channels == 1,
        "field": outline.channels == 1,
    }
    from_array = "array_shape" in form
    return PLAIN_SUFFIXES[outline.kind if holds.get(outline.kind) and not from_array else "array"]


def restored_name(codec: SignalCodec, entry: Entry) -> str:
    """Return the name of the file that a signal of an archive is restored as.

    Its own, if that format can be written without loss, else with another end.
    """
    suffix, plain = suffix_of(Path(entry.name)), plain_suffix(codec, entry)
    line = FORMATS.get(suffix)
    if line is None:
        return entry.name + plain
    kept = line.write is not None and entry.outline.kind in line.kinds and suffix not in _LOSSY
    if kept and (suffix == plain or plain != PLAIN_SUFFIXES["array"]):
        return entry.name
    return entry.name[: -len(suffix)] + plain


def restored_suffix(codec: SignalCodec, source: str) -> str | None:
    """Return the end of the file that a compressed file becomes; "" for an archive's folder.

    None for one that is damaged, or another codec's: whoever decodes it says what is wrong.
    """
    try:
        file = codec.parse(read_lsig(source))
        return "" if file.named else plain_suffix(codec, file.entries[0])
    except (LictorError, OSError):
        return None


def restored_beside(codec: SignalCodec, source: str) -> str:
    """Return where the result of a compressed file lies beside it; of an archive, a folder."""
    suffix, path = restored_suffix(codec, source), Path(source)
    name = path.stem if path.suffix.lower() == LSIG else path.name
    if suffix == "" and name == path.name:
        name += ".signals"  # the folder cannot have the file's name
    if suffix is None:
        suffix = PLAIN_SUFFIXES[codec.domain.kind]
    return str(path.parent / (name + suffix))


def lsig_beside(source: str) -> str:
    """Return the compressed file that lies beside a file of a signal."""
    path = Path(source)
    suffix = suffix_of(path)
    return str(path.parent / (path.name[: len(path.name) - len(suffix)] + LSIG))


def source_suffixes(kind: str) -> list[str]:
    """Return the ends of files that hold signals of a kind."""
    return [suffix for suffix, line in FORMATS.items() if kind in line.kinds]


def size_text(outline: Outline, form: Mapping[str, Any]) -> str:
    """Return how large a signal is, as people say it: seconds of a sound, else its sides."""
    rate = form.get("sample_rate")
    sides = "x".join(map(str, outline.grid))
    if outline.kind == "image":
        sides = "x".join(map(str, reversed(outline.grid)))
    if outline.kind == "audio" and isinstance(rate, int | float) and rate > 0:
        sides = f"{outline.grid[0] / rate:.2f} s"
    return sides if outline.items == 1 else f"{outline.items} of {sides}"


def rate_text(outline: Outline, form: Mapping[str, Any], num_bytes: int) -> str:
    """Return the rate of a file in the unit of its kind.

    Bits per pixel of a picture, kbit/s of a sound, else bits per sample; missing samples count.
    """
    rate = form.get("sample_rate")
    if outline.kind == "image":
        return f"{8 * num_bytes / outline.points:.3f} bpp"
    if outline.kind == "audio" and isinstance(rate, int | float) and rate > 0:
        return f"{8 * num_bytes * rate / outline.points / 1000:.2f} kbps"
    samples = outline.points * outline.channels
    return f"{8 * num_bytes / samples:.4f} bits per sample"
