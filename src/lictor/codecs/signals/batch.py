"""One file of signals through a codec of signals: what `codecs.batch` does for pictures.

A compressed file holds one signal, or it is an archive of several; see `archives` for these.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from lictor.codecs.batch import (
    Item,
    Result,
    Rules,
    is_there,
    is_younger,
    make_folder,
    settle,
)
from lictor.codecs.signals.archives import Archived, extract, members
from lictor.codecs.signals.codec import SignalCodec
from lictor.codecs.signals.files import rate_text, read_for, read_lsig, size_text
from lictor.codecs.signals.latents import StepLatents
from lictor.coding.archive import FINGERPRINT_BYTES, Archive, Outline
from lictor.data.places import whole_file
from lictor.data.signals.formats import write_signal
from lictor.errors import ConfigError, DataError, LictorError
from lictor.implicit.refine import Effort

# What each effort from 0 to 9 means in steps of Adam.
EFFORT_STEPS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Choices:
    """How signals are compressed.

    Args:
        quality: of the codec's range; None for the middle of it.
        effort: from 0 to 9, see `EFFORT_STEPS`.
        variable: which variable of files of fields that hold several.
    """

    quality: int | None = None
    effort: int = 0
    variable: str | None = None

    def checked(self, codec: SignalCodec) -> "Choices":
        """Return them with a quality; raises `ConfigError` for what the codec does not have."""
        first, last = codec.latents.qualities
        quality = (first + last) // 2 if self.quality is None else self.quality
        if not first <= quality <= last:
            raise ConfigError(f"--quality {quality} is not one of this codec's, {first} to {last}")
        if not 0 <= self.effort < len(EFFORT_STEPS):
            raise ConfigError(
                f"--effort must be from 0 to {len(EFFORT_STEPS) - 1}, not {self.effort}"
            )
        if self.effort and not isinstance(codec.latents, StepLatents):
            raise ConfigError("--effort: there is no search with the quantizer of this codec")
        kind = codec.domain.kind
        if self.variable is not None and kind != "field":
            raise ConfigError(f"--variable is for codecs of fields, and this is for kind {kind}")
        return Choices(quality, self.effort, self.variable)

    @property
    def search(self) -> Effort | None:
        """What the encoder does beyond the inner loop."""
        return Effort(steps=EFFORT_STEPS[self.effort]) if self.effort else None


class SignalCoder:
    """Codes one item after the other with one codec of signals."""

    def __init__(self, codec: SignalCodec, rules: Rules, choices: Choices | None = None):
        self._codec, self._rules = codec, rules
        self._choices = (choices or Choices()).checked(codec)

    def __call__(self, item: Item) -> Result:
        """Make an item's target, unless it is there; whatever goes wrong is the result."""
        return settle(item, lambda: self._settled(item.source, item.target))

    def _settled(self, source: str, target: str) -> Result:
        if self._rules.verb == "decompress":
            data = read_lsig(source)
            file = self._codec.parse(data)
            if file.named:
                text = self._extracted(source, data, file, Path(target))
                return Result("skipped" if text is None else "done", text or "")
        if is_there(source, target, self._rules, self._is_finished):
            return Result("skipped")
        compress = self._rules.verb == "compress"
        return Result("done", (self._compressed if compress else self._restored)(source, target))

    def _compressed(self, source: str, target: str) -> str:
        signal = read_for(self._codec, source, self._choices.variable)
        assert self._choices.quality is not None
        data = self._codec.encode([signal], self._choices.quality, self._choices.search)
        make_folder(target, self._rules)
        with whole_file(target) as file:
            file.write(data)
        outline = self._codec.domain.outline(signal)
        told = f"{size_text(outline, signal.form)}  {len(data)} bytes"
        return f"{source} -> {target}  {told}  {rate_text(outline, signal.form, len(data))}"

    def _restored(self, source: str, target: str) -> str:
        (signal,) = self._codec.decode(read_lsig(source))
        make_folder(target, self._rules)
        write_signal(target, signal)
        outline = self._codec.domain.outline(signal)
        return f"{source} -> {target}  {size_text(outline, signal.form)}"

    def _extracted(self, source: str, data: bytes, file: Archive, folder: Path) -> str | None:
        """Restore an archive into a folder; None when an earlier run did."""
        found = members(self._codec, file, folder)
        there = [member for member in found if member.path.exists()]
        if there and not self._rules.force:
            done = self._rules.skip and len(there) == len(found)
            if done and all(self._is_restored(source, member) for member in found):
                return None
            raise DataError(f"{there[0].path}: exists already; add --force to overwrite it")
        extract(self._codec, data, found, folder)
        return f"{source} -> {folder}  {len(found)} signals"

    def _is_restored(self, source: str, member: Archived) -> bool:
        try:
            return is_younger(str(member.path), source) and self._fits(member.path, member.outline)
        except (OSError, LictorError):
            return False

    def _is_finished(self, source: str, target: str) -> bool:
        """Tell whether a target is an earlier run's, of this codec, quality and shape."""
        compress = self._rules.verb == "compress"
        compressed, plain = (target, source) if compress else (source, target)
        try:
            if not is_younger(target, source):
                return False
            file = Archive.from_bytes(read_lsig(compressed))
            if file.fingerprint != self._codec.fingerprint[:FINGERPRINT_BYTES] or file.named:
                return False
            if compress and file.quality != self._choices.quality:
                return False
            return self._fits(Path(plain), file.entries[0].outline)
        except (OSError, LictorError):
            return False

    def _fits(self, path: Path, outline: Outline) -> bool:
        """Tell whether a file holds a signal of that shape."""
        signal = read_for(self._codec, str(path), self._choices.variable)
        shape = (outline.items, *outline.grid, outline.channels)
        return signal.samples.shape == shape


def signal_codec_from_bytes(data: bytes) -> SignalCodec:
    """Return the codec of a codec file's bytes; raises `CheckpointError` as `load` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sent.lcodec"
        path.write_bytes(data)
        return SignalCodec.load(path)


def signal_coder_from_bytes(data: bytes, rules: Rules, choices: Choices) -> SignalCoder:
    """Return what codes items, in a process that has the codec file's bytes and no more."""
    return SignalCoder(signal_codec_from_bytes(data), rules, choices)
