"""Where an evaluation keeps decoded items of signals, for a report to show.

Pictures are kept as those of codecs of pictures are, see `evaluation.pictures`; all else as
`FOLDER/signals/CURVE/SETTING/NAME.npz`, the originals under the curve `original`.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lictor.data.signals.signal import Signal
from lictor.errors import DataError
from lictor.evaluation.pictures import ORIGINAL, PICTURES, original_path, picture_path
from lictor.files import atomic_file

SIGNALS = "signals"


def signal_path(folder: Path, curve: str, setting: str, name: str) -> Path:
    """Return where a decoded item of a curve's setting is kept."""
    path = picture_path(folder, curve, setting, name)
    below = path.relative_to(folder / PICTURES)
    return (folder / SIGNALS / below).with_name(f"{path.stem}.npz")


def original_signal_path(folder: Path, name: str) -> Path:
    """Return where the original item is kept."""
    return signal_path(folder, ORIGINAL, ORIGINAL, name)


def keep(folder: Path, name: str, original: Signal, decoded: Signal, curve: str, at: str) -> None:
    """Keep an item with its original; raises `DataError` when they cannot be written."""
    if is_picture(original):
        _save_png(original, original_path(folder, name))
        _save_png(decoded, picture_path(folder, curve, at, name))
    else:
        _save(original, original_signal_path(folder, name))
        _save(decoded, signal_path(folder, curve, at, name))


def is_kept(folder: Path, name: str, original: Signal, curve: str, setting: str) -> bool:
    """Tell whether an item and its original have been kept."""
    if is_picture(original):
        places = original_path(folder, name), picture_path(folder, curve, setting, name)
    else:
        places = original_signal_path(folder, name), signal_path(folder, curve, setting, name)
    return all(place.exists() for place in places)


def is_picture(signal: Signal) -> bool:
    """Tell whether a signal can be kept as a picture file."""
    return (
        signal.kind == "image"
        and signal.mask is None
        and signal.samples.dtype == np.uint8
        and signal.channels in (1, 3)
    )


def _folder_of(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot make the folder ({error.strerror})") from error


def _save_png(signal: Signal, path: Path) -> None:
    _folder_of(path)
    image = signal.samples[0]
    with atomic_file(path) as file:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "PNG")


def _save(signal: Signal, path: Path) -> None:
    _folder_of(path)
    # Nobody sees more than single precision.
    samples = signal.samples.astype(np.float32) if signal.samples.dtype == float else signal.samples
    mask = np.ones(0, bool) if signal.mask is None else signal.mask
    about = json.dumps({"kind": signal.kind, "form": dict(signal.form)}).encode()
    with atomic_file(path) as file:
        np.savez_compressed(file, samples=samples, mask=mask, about=np.frombuffer(about, np.uint8))


def load_kept(path: Path) -> Signal:
    """Read what was kept; raises `DataError` when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            about = json.loads(content["about"].tobytes())
            mask = content["mask"] if content["mask"].size else None
            return Signal(content["samples"], mask, about["kind"], about["form"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no kept signal, or damaged ({error})") from error


def with_samples(original: Signal, decoded: np.ndarray) -> Signal:
    """Return an item with other samples, of the original's dtype; what is masked is 0."""
    samples = decoded
    if original.samples.dtype.kind in "iu":
        limits = np.iinfo(original.samples.dtype)
        samples = np.clip(np.rint(decoded.astype(np.float64)), limits.min, limits.max)
    samples = samples.astype(original.samples.dtype)
    if original.mask is not None:
        samples = np.where(original.mask[..., None], samples, samples.dtype.type(0))
    return replace(original, samples=samples)
