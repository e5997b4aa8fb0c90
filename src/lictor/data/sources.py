"""What training takes its pictures from: folders, shards, and several of them with weights."""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lictor.data.folder import KEPT, ImageFolder, Progress, open_image_folder
from lictor.data.places import is_url
from lictor.data.shards import JOURNAL, MANIFEST, open_shards
from lictor.errors import ConfigError, DataError


@dataclass(frozen=True)
class Source:
    """A folder tree of pictures, a folder of shards, or the URL of one; `share` of the draws.

    Without shares, pictures of all sources come equally often.
    """

    place: str
    share: float | None = None


def source_of(given: "Source | str | os.PathLike[str]") -> Source:
    """Read `PLACE` or `PLACE=SHARE`; raises `ConfigError` on a share that is not positive.

    What is there under the whole name is a place, whatever it looks like.
    """
    if isinstance(given, Source):
        return given
    place, equals, text = os.fspath(given).rpartition("=")
    if not equals or not place or (not is_url(place) and Path(os.fspath(given)).exists()):
        return Source(os.fspath(given))
    try:
        share = float(text)
    except ValueError:
        return Source(os.fspath(given))
    if not 0 < share < math.inf:
        raise ConfigError(f"{os.fspath(given)}: the weight of a source must be positive")
    return Source(place, share)


def titles(places: Sequence[str]) -> list[str]:
    """Return a prefix for the names of each place's pictures; no two are equal."""
    found = list[str]()
    for place in places:
        end = place.rstrip("/").rpartition("/")[2]
        name = end if is_url(place) else Path(place).resolve().name
        candidates = (f"{name}{'' if i == 1 else f'-{i}'}/" for i in itertools.count(1))
        found.append(next(title for title in candidates if title not in found))
    return found


def open_pictures(
    given: "Sequence[Source | str | os.PathLike[str]] | Source | str | os.PathLike[str]",
    *,
    cache_bytes: int,
    kept: int = KEPT,
    on_progress: Progress = lambda *_: None,
) -> ImageFolder:
    """Open one source of pictures or several; see `open_image_folder` and `open_shards`.

    Sources share the budget in their order. Names of several begin with the source's, so that
    equal names stay apart. Raises `ConfigError` when some have a weight and others have none.
    """
    one = isinstance(given, Source | str | os.PathLike)
    sources = [source_of(each) for each in ([given] if one else given)]  # pyright: ignore[reportGeneralTypeIssues]
    if not sources:
        raise ConfigError("training needs at least one folder of pictures")
    weighed = [source for source in sources if source.share is not None]
    if weighed and len(weighed) < len(sources):
        bare = next(source.place for source in sources if source.share is None)
        raise ConfigError(f"{bare}: has no weight, and other sources do; give all of them or none")
    opened = list[ImageFolder]()
    left = cache_bytes
    for source in sources:
        opened.append(_open(source.place, left, kept, on_progress))
        left -= opened[-1].cached_bytes
    return opened[0] if len(opened) == 1 else _combined(sources, opened)


def _open(place: str, cache_bytes: int, kept: int, on_progress: Progress) -> ImageFolder:
    if not is_url(place):
        folder = Path(place)
        if (folder / JOURNAL).exists() and not (folder / MANIFEST).exists():
            raise DataError(f"{place}: its packing was stopped; give its command again to go on")
        if not (folder / MANIFEST).exists():
            return open_image_folder(
                folder, cache_bytes=cache_bytes, kept=kept, on_progress=on_progress
            )
    return open_shards(place, cache_bytes=cache_bytes, kept=kept, on_progress=on_progress)


def _combined(sources: Sequence[Source], opened: Sequence[ImageFolder]) -> ImageFolder:
    starts = np.cumsum([0, *(len(folder) for folder in opened)])

    def load(number: int) -> UInt8[np.ndarray, "h w 3"]:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        return opened[part].load(number - int(starts[part]))

    prefixes = titles([source.place for source in sources])
    about = [[f.identity, s.share] for f, s in zip(opened, sources, strict=True)]
    identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return ImageFolder(
        tuple(p + name for p, f in zip(prefixes, opened, strict=True) for name in f.names),
        load,
        tuple(reason for folder in opened for reason in folder.bad),
        identity,
        on_demand=any(folder.on_demand for folder in opened),
        groups=tuple(
            (len(folder), source.share)
            for folder, source in zip(opened, sources, strict=True)
            if source.share is not None
        ),
    )
