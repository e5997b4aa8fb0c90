"""`lictor demo --modality`: real signals to files and back, beside traditional codecs.

Signals are those that travel inside other packages, codecs those that ship with lictor.
"""

import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from lictor.cli.demo_data import SOURCES, Source
from lictor.cli.demo_drawings import DRAWINGS
from lictor.cli.demo_files import decode_elsewhere, demo_folder
from lictor.cli.progress import log_to_terminal, over, table
from lictor.codecs.shipped import find_codec
from lictor.codecs.signals.archives import members
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.files import read_for, restored_suffix
from lictor.data.signals.formats import read_signal
from lictor.data.signals.signal import Signal
from lictor.errors import ConfigError, DataError, LictorError
from lictor.evaluation.signals.contenders import parse_signal_contenders
from lictor.evaluation.signals.items import SignalSet, items_of
from lictor.evaluation.signals.quality import Peak, measure, peak_of, unit_for
from lictor.evaluation.signals.sweep import entries_of, evaluate_signals
from lictor.files import atomic_file, write_file

_BASELINES = {"audio": "silence"}
_QUALITIES = 3


@dataclass(frozen=True)
class _Group:
    """Signals that one file holds: the file's name, theirs, and they themselves."""

    name: str
    names: tuple[str, ...]
    signals: tuple[Signal, ...]

    @property
    def points(self) -> int:
        return sum(len(signal) * math.prod(signal.grid) for signal in self.signals)


@dataclass(frozen=True)
class _Coded:
    """A compressed file: its place, and what the encoder says that it holds."""

    group: _Group
    quality: int
    file: Path
    num_bytes: int
    reconstructions: tuple[Signal, ...]


@dataclass(frozen=True)
class _Row:
    """Signals of a group through one codec: PSNR is the mean of the items'."""

    codec: str
    num_bytes: float
    psnr: float
    baseline: float


def run_signal_demo(
    modality: str, out: Path, *, force: bool, codec_file: Path | None = None
) -> int:
    """Run the demo of a modality into the folder `out`; return the exit code.

    The codec is the shipped one, if no other file is given. Raises a `LictorError` when data or
    packages are missing, and when a file decodes otherwise than it was encoded.
    """
    console = Console(width=None if sys.stdout.isatty() else 100)
    source = SOURCES[modality]
    codec_file = codec_file or find_codec(source.codec)
    codec = SignalCodec.load(codec_file)
    with tempfile.TemporaryDirectory(prefix="lictor-demo-") as hidden:
        files = source.write(Path(hidden))  # what is missing is said before there is a folder
        former = [path.relative_to(out) for path in out.glob("*.lsig")]
        demo_folder(out, former, force=force)
        try:
            (out / "original").mkdir(exist_ok=True)
            files = [Path(shutil.copy(file, out / "original")) for file in files]
        except OSError as error:
            raise DataError(f"{out / 'original'}: cannot be written ({error.strerror})") from error
    log_to_terminal()
    groups = _groups(codec, source, files)
    copy = out / f"{source.codec}.lcodec"
    write_file(copy, codec_file.read_bytes())

    tasks = [(group, quality) for group in groups for quality in _qualities(codec)]
    coded = [_compressed(codec, group, quality, out) for group, quality in over(tasks, "coding")]
    decode_elsewhere([one.file for one in coded], copy, out / "restored")
    restored = [_checked(codec, one, out / "restored") for one in coded]

    lines = _lines(codec, source.peers, list(zip(coded, restored, strict=True)), console)
    console.print(table(lines, title=f"{codec.name} on {source.about}"), crop=False)
    _tell(console, coded, copy)
    drawn = _drawn(codec.domain.kind, list(zip(coded, restored, strict=True)), out)
    console.print(f"[bold]Look at {drawn}[/bold]: the originals, and what was restored.")
    heard = ", to listen to" if modality == "audio" else ""
    console.print(
        f"Also in {out}/: the compressed files (*.lsig), what they were made from (original/) and "
        f"restored to (restored/{heard}), the codec (*.lcodec)."
    )
    return 0


def _groups(codec: SignalCodec, source: Source, files: Sequence[Path]) -> list[_Group]:
    """Read files as a codec needs them: together for an archive, or each for itself."""
    signals = [read_for(codec, str(path)) for path in files]
    if source.archive:
        return [_Group(source.codec, tuple(path.name for path in files), tuple(signals))]
    return [
        _Group(path.name.partition(".")[0], (path.name,), (signal,))
        for path, signal in zip(files, signals, strict=True)
    ]


def _qualities(codec: SignalCodec) -> list[int]:
    """Return qualities spread over the upper half of a codec's."""
    first, last = codec.latents.qualities
    upper = np.linspace((first + last) / 2, last, _QUALITIES)
    return sorted({round(float(quality)) for quality in upper})


def _compressed(codec: SignalCodec, group: _Group, quality: int, out: Path) -> _Coded:
    names = group.names if len(group.signals) > 1 else None
    result = codec.encode_verbose(group.signals, quality, names=names)
    file = out / f"{group.name}-q{quality}.lsig"
    write_file(file, result.data)
    return _Coded(group, quality, file, len(result.data), tuple(result.reconstructions))


def _checked(codec: SignalCodec, coded: _Coded, folder: Path) -> list[Signal]:
    """Read what the other process restored; raises `LictorError` where the encoder has it else."""
    file = codec.parse(coded.file.read_bytes())
    if file.named:
        paths = [found.path for found in members(codec, file, folder / coded.file.stem)]
    else:
        paths = [folder / f"{coded.file.stem}{restored_suffix(codec, str(coded.file))}"]
    kind, axes = codec.domain.kind, len(codec.domain.grid)
    found = [read_signal(path, kind=kind, axes=axes) for path in paths]
    for path, signal, expected in zip(paths, found, coded.reconstructions, strict=True):
        if not np.array_equal(signal.samples, expected.samples):
            different = int((signal.samples != expected.samples).sum())
            raise LictorError(f"{path}: {different} samples decode otherwise than encoded")
    return found


def _lines(
    codec: SignalCodec,
    peers: Sequence[str],
    decoded: Sequence[tuple[_Coded, list[Signal]]],
    console: Console,
) -> list[dict[str, str]]:
    """Return the table: each group's files by quality, then peers at about their sizes."""
    kind, lines = codec.domain.kind, list[dict[str, str]]()
    there = list(_available(peers, kind, console))
    groups = {coded.group.name: coded.group for coded, _ in decoded}
    baseline = f"{_BASELINES.get(kind, 'mean')} dB"
    for group in groups.values():
        peak = _peak(codec, group.signals[0])
        rows = [_measured(coded, found, peak) for coded, found in decoded if coded.group is group]
        sizes = [row.num_bytes for row in rows]
        for peer in there:
            rows += _nearest(_peer_rows(peer, kind, group, peak), sizes)
        unit = unit_for(list(group.signals))
        for number, row in enumerate(rows):
            rate = 8 * row.num_bytes / group.points * unit.per_bpp
            lines.append(
                {
                    "what": group.name if number == 0 else "",
                    "codec": row.codec,
                    "bytes": f"{row.num_bytes:.0f}",
                    unit.name: f"{rate:.4g}",
                    "PSNR dB": f"{row.psnr:.2f}",
                    baseline: f"{row.baseline:.2f}",
                    "above it": f"{row.psnr - row.baseline:.2f}",
                }
            )
    return lines


def _peak(codec: SignalCodec, signal: Signal) -> Peak:
    """Return the range that errors are shares of: that of the codec's training data, as a rule."""
    domain = codec.domain
    if domain.kind in ("image", "audio") or domain.own_range:
        return peak_of(signal)
    return Peak(domain.low, domain.high, "the codec's training data")


def _measured(coded: _Coded, found: Sequence[Signal], peak: Peak) -> _Row:
    qualities = [
        measure(item.signal, decoded.signal.samples, peak)
        for original, restored in zip(coded.group.signals, found, strict=True)
        for item, decoded in zip(items_of(original, "", 0), items_of(restored, "", 0), strict=True)
    ]
    return _Row(
        f"lictor q{coded.quality}",
        coded.num_bytes,
        float(np.mean([one.psnr for one in qualities])),
        float(np.mean([one.baseline_psnr for one in qualities])),
    )


def _available(peers: Sequence[str], kind: str, console: Console) -> Iterator[str]:
    """Give the peers whose libraries are installed, and say which are not."""
    for peer in peers:
        try:
            parse_signal_contenders([peer], kind)
        except ConfigError as error:
            console.print(f"without {peer}: {error}", markup=False, soft_wrap=True)
            continue
        yield peer


def _peer_rows(peer: str, kind: str, group: _Group, peak: Peak) -> list[_Row]:
    """Measure a peer at its usual qualities, each signal in a file of its own if it can."""
    (contender,) = parse_signal_contenders([peer], kind)
    items = [
        item
        for number, (name, signal) in enumerate(zip(group.names, group.signals, strict=True))
        for item in items_of(signal, name, number)
    ]
    signals = SignalSet(group.signals, tuple(items))
    entry = entries_of([contender], signals, peak)[-1]
    rows = list[_Row]()
    outcomes = list(evaluate_signals([entry], signals, peak=peak))
    for start in range(0, len(outcomes), len(items)):
        own = [one.row for one in outcomes[start : start + len(items)] if one.row is not None]
        if len(own) == len(items):
            rows.append(
                _Row(
                    f"{peer} {own[0].setting}",
                    sum(row.bpp * row.width * row.height for row in own) / 8,
                    float(np.mean([row.psnr for row in own])),
                    float(np.mean([row.baseline_psnr for row in own])),
                )
            )
    return rows


def _nearest(rows: Sequence[_Row], sizes: Sequence[float]) -> list[_Row]:
    """Return, by size, those rows that are nearest to a size each."""
    if not rows:
        return []
    chosen = {
        min(range(len(rows)), key=lambda i: abs(math.log(rows[i].num_bytes / size)))
        for size in sizes
    }
    return sorted((rows[i] for i in chosen), key=lambda row: row.num_bytes)


def _tell(console: Console, coded: Sequence[_Coded], copy: Path) -> None:
    """Say what was checked, and what is not in the numbers."""
    exact = "every symbol and every sample is the encoder's"
    console.print(
        f"All {len(coded)} files were decoded in another process: {exact}.\n"
        "Peers are at those of their usual settings whose files are nearest in size to ours.\n"
        f"The codec file, {copy.stat().st_size} bytes, is there once for all files; rates are "
        "without it.\n"
    )


def _drawn(kind: str, decoded: Sequence[tuple[_Coded, list[Signal]]], out: Path) -> Path:
    """Draw the first group: its originals, and what each quality made of them."""
    name, draw = DRAWINGS[kind]
    group = decoded[0][0].group
    restored = [
        (f"quality {coded.quality}, {coded.num_bytes} bytes", found)
        for coded, found in decoded
        if coded.group is group
    ]
    with atomic_file(out / name) as file:
        draw(group.signals, restored).save(file, "PNG")
    return out / name
