"""Real data for `lictor demo`, out of packages that have it inside: pictures, speech, scans.

Nothing is fetched. What is missing is said in one line, with the command that installs it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from lictor.data.signals.formats import read_signal, write_signal
from lictor.errors import DataError
from lictor.files import write_file

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_THUMBNAIL, _SMALLER = 32, 4
_SAMPLE_RATE = 8000
# Of each its file, and the seconds that are taken: one is mostly silence.
_RECORDINGS = {
    "proverb": (
        "was_der_mensch_saet_das_wird_er_vielfach_ernten_44100Hz_mono_lead_trail_silence.wav",
        (6.5, 12.5),
    ),
    "digits": ("1to6arabic_16000_mono_bc_noise.wav", (0.0, 20.0)),
}
_SCAN = "example4d.nii.gz"
_MEMBERS = ("ensemble_012.pp", "ensemble_013.pp")


@dataclass(frozen=True)
class Source:
    """Where real signals of a kind come from, and what they are coded with.

    Args:
        codec: name of the shipped codec.
        about: what the signals are.
        write: writes them into a folder as files and returns those; raises `DataError` without the
            package, `ConfigError` without one that reads or writes such files.
        archive: whether they go into one file.
        peers: codecs that need no training, to stand beside.
    """

    codec: str
    about: str
    write: Callable[[Path], list[Path]]
    archive: bool
    peers: tuple[str, ...]


def photographs() -> list[Path]:
    """Return the photographs inside the scikit-image wheel; raises `DataError` without it."""
    folder = _folder_of("skimage", "photographs", "demo")
    paths = [folder / "data" / name for name in PHOTOGRAPHS]
    found = [path for path in paths if path.exists()]
    if len(found) < 2:
        raise DataError(f"{paths[0].parent}: this scikit-image has none of the demo's photographs")
    return found


def _folder_of(package: str, what: str, extra: str) -> Path:
    """Return where a package lies, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f'the demo needs {what}: pip install "lictor[{extra}]"')
    return Path(spec.origin).parent


def _inside(package: str, place: str, what: str, extra: str) -> Path:
    path = _folder_of(package, what, extra) / place
    if not path.exists():
        raise DataError(
            f"{path}: this release of {package} does not have {what}; "
            f'one that has: pip install "lictor[{extra}]"'
        )
    return path


def _thumbnails(folder: Path) -> list[Path]:
    """Write squares of 32 x 32 of photographs at a quarter of their size."""
    written = []
    for path in photographs():
        with Image.open(path) as image:
            small = image.convert("RGB").reduce(_SMALLER)
        corners = [
            (left, top)
            for top in range(0, small.height - _THUMBNAIL + 1, _THUMBNAIL)
            for left in range(0, small.width - _THUMBNAIL + 1, _THUMBNAIL)
        ]
        for number, (left, top) in enumerate(corners):
            target = folder / f"{path.stem}-{number:02}.png"
            small.crop((left, top, left + _THUMBNAIL, top + _THUMBNAIL)).save(target)
            written.append(target)
    return written


def _recordings(folder: Path) -> list[Path]:
    """Write speech at 8 kHz, as telephones had it."""
    from scipy.signal import resample_poly

    written = []
    for name, (file, (begin, end)) in _RECORDINGS.items():
        found = read_signal(_inside("auditok", f"data/{file}", "recordings of speech", "demo"))
        rate = int(found.form["sample_rate"])
        common = math.gcd(rate, _SAMPLE_RATE)
        part = found.samples[:, round(begin * rate) : round(end * rate)].astype(np.float64)
        samples = resample_poly(part, _SAMPLE_RATE // common, rate // common, axis=1)
        narrow = np.clip(np.rint(samples), -(2**15), 2**15 - 1).astype(np.int16)
        form = {**found.form, "sample_rate": _SAMPLE_RATE}
        written.append(folder / f"{name}.wav")
        write_signal(written[-1], replace(found, samples=narrow, form=form))
    return written


def _scan(folder: Path) -> list[Path]:
    """Write the first volume of a scan with 8 bits a voxel, its brightest thousandth cut off."""
    found = read_signal(_inside("nibabel", f"tests/data/{_SCAN}", "a scan", "demo"))
    volume = found.samples[:1].astype(np.float64)
    levels = np.rint(255 * volume / np.percentile(volume, 99.9))
    form = {"affine": found.form["affine"]}
    target = folder / "brain.nii.gz"
    samples = np.clip(levels, 0, 255).astype(np.uint8)
    write_signal(target, replace(found, samples=samples, mask=None, form=form))
    return [target]


def _forecasts(folder: Path) -> list[Path]:
    """Copy fields of two members of an ensemble, each of several months."""
    from lictor.data.signals.quiet import needed

    needed("xarray", "fields")  # said before anything is done
    written = []
    for name in _MEMBERS:
        place = f"sample_data/GloSea4/{name}"
        path = _inside("iris_sample_data", place, "fields of a forecast", "demo-field")
        written.append(folder / name)
        write_file(written[-1], path.read_bytes())
    return written


SOURCES: dict[str, Source] = {
    "audio": Source(
        "speech",
        "speech at 8 kHz that the codec was not trained on: a German proverb, digits in Arabic",
        _recordings,
        archive=False,
        peers=("mp3", "opus"),
    ),
    "volume": Source(
        "mri",
        "a scan of a head, 8 bits a voxel, that the codec was not trained on",
        _scan,
        archive=False,
        peers=("jpeg2000", "sz3"),
    ),
    "field": Source(
        "climate",
        "forecasts of temperature, of two members of an ensemble (GloSea4) that the codec was not "
        "trained on; it was on other members",
        _forecasts,
        archive=True,
        peers=("jpeg2000", "sz3"),
    ),
    "thumbnails": Source(
        "thumbnails",
        "squares of photographs that the codec was not trained on",
        _thumbnails,
        archive=True,
        peers=("jpeg", "webp"),
    ),
}
