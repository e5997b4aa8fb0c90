"""Many codecs at many settings on the signals of a folder, with files of two sorts.

*Single*: a file for each item. *Archive*: one file for all signals, or, of codecs that cannot do
that but know files of several items, a file for each signal. Of an archive each item has its share
of bytes and times, by samples. Rows, journals and results files are those of pictures.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lictor.codecs.protocol import RateEstimate
from lictor.comparison.curve import Curve, ImageResult
from lictor.data.signals.signal import Signal
from lictor.errors import LictorError
from lictor.evaluation.contenders import Contender, Setting
from lictor.evaluation.journal import Journal, known_rows
from lictor.evaluation.signals.coder import SignalCoder
from lictor.evaluation.signals.contenders import SignalContender, with_config
from lictor.evaluation.signals.items import Item, SignalSet
from lictor.evaluation.signals.kept import is_kept, keep, with_samples
from lictor.evaluation.signals.quality import (
    Peak,
    aligned,
    from_unit,
    in_unit,
    measure,
    peak_of,
    unit_for,
)
from lictor.evaluation.sweep import Outcome, Picture, Task, finish

ARCHIVE = "archive"
WITH_NETWORK = "bpp-with-network"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A contender with one sort of files; its name says so, as the results file's does."""

    contender: Contender[SignalCoder]
    of: SignalContender
    archive: bool


def entries_of(
    contenders: Sequence[SignalContender], signals: SignalSet, peak: Peak | None
) -> list[Entry]:
    """Return who is measured: each contender with single files, and with archives if they differ.

    `peak` is the range of all; None: each file's own.
    """
    several = any(len(file) > 1 for file in signals.files)
    about: dict[str, Any] = {"peak": asdict(peak) if peak else "each file's own"}
    found = []
    for one in contenders:
        name = one.contender.name
        found.append(Entry(with_config(one.contender, name, **about), one, archive=False))
        if (one.archives and len(signals.items) > 1) or (one.stacks and several):
            # Every file's share depends on all that are in it.
            more = {**about, ARCHIVE: len(signals.items) if one.archives else "a file a signal"}
            contender = with_config(one.contender, f"{name}-{ARCHIVE}", **more)
            words = "all signals in one file" if one.archives else "all items of a signal in a file"
            contender = replace(contender, description=f"{contender.description}; {words}")
            found.append(Entry(contender, one, archive=True))
    return found


def common_peak(contenders: Sequence[SignalContender], kind: str) -> Peak | None:
    """Return the range that errors are shares of: the first codec's, if its kind has none."""
    if kind in ("image", "audio"):
        return None
    return next((one.peak for one in contenders if one.peak is not None), None)


def evaluate_signals(
    entries: Sequence[Entry],
    signals: SignalSet,
    *,
    peak: Peak | None = None,
    out: Path | None = None,
    keep_items: int = 0,
) -> Iterator[Outcome]:
    """Measure every item at every setting, one after the other.

    With `out`, rows are kept in that folder as they come, and an interrupted evaluation goes on
    where it was; the first `keep_items` items are kept decoded. Whatever goes wrong with one codec
    is an outcome, not the end. Raises `DataError` when `out` cannot be written.
    """
    work = _Work(signals, [peak or peak_of(file) for file in signals.files], out, keep_items)
    if out is None:
        for entry in entries:
            yield from work.of(entry, None)
        return
    with Journal(out) as journal:
        for entry in entries:
            yield from work.of(entry, journal)


@dataclass(frozen=True)
class _Work:
    """What all settings share."""

    signals: SignalSet
    peaks: Sequence[Peak]
    out: Path | None
    keep_items: int

    def of(self, entry: Entry, journal: Journal | None) -> Iterator[Outcome]:
        """Measure the settings of an entry."""
        items = self.signals.items
        known = {} if self.out is None else known_rows(self.out, entry.contender)
        for setting in entry.contender.settings:
            rows = [known.get((setting.label, item.name)) for item in items]
            valid = [self._valid(entry, setting, i, row) for i, row in enumerate(rows)]
            for group, files in self._groups(entry):
                if all(valid[i] for i in group):
                    for i in group:
                        task = _task(entry, setting, items[i])
                        yield Outcome(task, rows[i], reused=True)
                    continue
                outcomes = self._measured(entry, setting, group, files)
                for outcome in outcomes:  # all before the first is told: they are one file
                    if journal is not None and outcome.row is not None:
                        journal.add(entry.contender.name, setting, outcome.row)
                yield from outcomes

    def _groups(self, entry: Entry) -> Iterator[tuple[list[int], list[Signal]]]:
        """Return the items of each file that is written, and the signals that go into it."""
        items = self.signals.items
        if not entry.archive:
            yield from (([i], [item.signal]) for i, item in enumerate(items))
        elif entry.of.archives:
            yield list(range(len(items))), list(self.signals.files)
        else:
            for number, file in enumerate(self.signals.files):
                yield [i for i, item in enumerate(items) if item.file == number], [file]

    def _valid(
        self, entry: Entry, setting: Setting[SignalCoder], i: int, row: ImageResult | None
    ) -> bool:
        item = self.signals.items[i]
        if row is None or row.sha256 != item.sha256:
            return False
        if self.out is None or i >= self.keep_items:
            return True
        return is_kept(self.out, item.name, item.signal, entry.contender.name, setting.label)

    def _measured(
        self,
        entry: Entry,
        setting: Setting[SignalCoder],
        group: Sequence[int],
        files: Sequence[Signal],
    ) -> list[Outcome]:
        """Write one file, read it, and measure the items in it; all of them fail together."""
        tasks = [_task(entry, setting, self.signals.items[i]) for i in group]
        first = tasks[0].picture.name
        try:
            rows = self._rows(entry, setting, group, files)
            return [Outcome(task, row) for task, row in zip(tasks, rows, strict=True)]
        except LictorError as error:
            reason = f"{first}: {error}"
        except MemoryError:
            reason = f"{first}: not enough memory"
        except Exception as error:  # a codec is other people's code: the others go on
            _log.debug("%s failed", tasks[0], exc_info=True)
            reason = f"{first}: {type(error).__name__}: {error}"
        return [Outcome(task, None, reason) for task in tasks]

    def _rows(
        self,
        entry: Entry,
        setting: Setting[SignalCoder],
        group: Sequence[int],
        files: Sequence[Signal],
    ) -> list[ImageResult]:
        coder = setting.make()
        start = time.perf_counter()
        data = coder.encode(files)
        encoded = time.perf_counter()
        decoded = coder.decode(data)
        done = time.perf_counter()
        if len(decoded) != len(files):
            raise LictorError(f"{len(files)} signals came back as {len(decoded)}")
        estimated = coder.estimate_bytes(data) if isinstance(coder, RateEstimate) else math.nan
        restored = [
            item[None]
            for original, samples in zip(files, decoded, strict=True)
            for item in _restored(coder, original, samples)
        ]
        counts = [_samples(self.signals.items[i].signal) for i in group]
        total = sum(counts)
        rows = []
        for i, count, samples in zip(group, counts, restored, strict=True):
            item, share = self.signals.items[i], count / total
            quality = measure(item.signal, samples, self.peaks[item.file])
            if self.out is not None and i < self.keep_items:
                shown = with_samples(item.signal, samples)
                name, label = entry.contender.name, setting.label
                keep(self.out, item.name, item.signal, shown, name, label)
            width = item.signal.grid[-1]
            rows.append(
                ImageResult(
                    setting=setting.label,
                    image=item.name,
                    sha256=item.sha256,
                    width=width,
                    height=count // width,
                    bytes=max(1, round(len(data) * share)),
                    bpp=8 * len(data) / total,
                    mse=quality.mse,
                    mse_y=math.nan,
                    psnr=quality.psnr,
                    psnr_y=math.nan,
                    ms_ssim=math.nan,
                    encode_s=(encoded - start) * share,
                    decode_s=(done - encoded) * share,
                    estimated_bpp=8 * estimated / total,
                    jobs=1,
                    baseline_psnr=quality.baseline_psnr,
                    psnr_lat=quality.psnr_lat,
                )
            )
        return rows


def _restored(coder: SignalCoder, original: Signal, samples: np.ndarray) -> np.ndarray:
    """Return decoded samples in the original's scale, without a codec's delay."""
    kind, dtype = original.kind, original.samples.dtype
    if coder.delays:
        unit = in_unit(original.samples, kind, dtype) if coder.scaled else original.samples
        pairs = zip(unit, samples, strict=True)
        samples = np.stack([aligned(item, decoded) for item, decoded in pairs])
    if coder.scaled:
        samples = from_unit(samples, kind, dtype)
    return samples


def _samples(signal: Signal) -> int:
    return int(np.prod(signal.grid))


def _task(entry: Entry, setting: Setting[SignalCoder], item: Item) -> Task:
    return Task(entry.contender.name, setting, Picture(item.name, item.name, item.sha256))


def finish_signals(
    entries: Sequence[Entry],
    outcomes: Sequence[Outcome],
    signals: SignalSet,
    *,
    out: Path | None = None,
    dataset: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> list[Curve]:
    """Average outcomes into curves and write their files, as `finish` does for pictures.

    Curves of codecs with a network have its bytes in `codec["network_bytes"]` and the rate with
    them, shared over the items, in the column `WITH_NETWORK`.
    """
    unit = unit_for(list(signals.files))
    network = {entry.contender.name: entry.of.network_bytes for entry in entries}
    return finish(
        [entry.contender for entry in entries],
        outcomes,
        out=out,
        dataset=dataset,
        provenance=provenance,
        errors=[f"not a readable signal: {reason}" for reason in signals.errors],
        amend=lambda curve: _with_network(replace(curve, unit=unit), network[curve.name]),
    )


def _with_network(curve: Curve, network_bytes: Mapping[str, int]) -> Curve:
    """Add the rate that has the network's bytes in it, an equal part of them in each item."""
    if not network_bytes:
        return curve
    rates = []
    for setting, bpp in zip(curve.settings, curve.bpp, strict=True):
        rows = curve.at(setting)
        own = 8 * network_bytes[setting] / len(rows)
        rates.append(bpp + float(np.mean([own / (row.width * row.height) for row in rows])))
    known = {setting: network_bytes[setting] for setting in curve.settings}
    return replace(
        curve,
        columns={**curve.columns, WITH_NETWORK: np.array(rates)},
        codec={**curve.codec, "network_bytes": known},
    )
