"""What a report is about: results files, folders of them, published curves; each has its name."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lictor.comparison.anchors import anchor_names, load_anchor, near_anchors
from lictor.comparison.curve import Curve, load_curve
from lictor.errors import DataError


@dataclass(frozen=True)
class Source:
    """A curve under the name that the report gives it, and where its kept pictures are.

    `file` is the results file, None for a published curve; pictures lie beside it under `kept_as`,
    the name that the file has inside.
    """

    curve: Curve
    file: Path | None = None
    kept_as: str = ""


def load_sources(results: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Read results files, folders of them and published curves; also return what was left out.

    The same file named twice counts once. Different files whose curves have one name are told apart
    by their file's name, else by their folder's. Raises `DataError` when something does not exist
    or is no results file, when a folder has none, and when names cannot be told apart.
    """
    sources: list[Source] = []
    notes: list[str] = []
    seen: set[object] = set()
    for text in results:
        for source in _load(text, notes):
            key = source.curve.name if source.file is None else source.file.resolve()
            if key not in seen:
                seen.add(key)
                sources.append(source)
    return _with_own_names(sources), notes


def _load(text: str, notes: list[str]) -> Iterator[Source]:
    path = Path(text)
    try:
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # too long a name, or a character that no path has
        exists = folder = False
    if folder:
        yield from _load_folder(path, notes)
    elif exists:
        yield _from_file(path)
    elif text.casefold().strip() in anchor_names():
        yield Source(load_anchor(text))
    else:
        near = near_anchors(path.stem)
        hint = f"published curves like it: {', '.join(near)}" if near else "see lictor anchors"
        raise DataError(f"{text}: no such file or folder, nor a published curve; {hint}")


def _from_file(path: Path) -> Source:
    curve = load_curve(path)
    kept_as = curve.name
    if curve.name == "unnamed":
        curve = dataclasses.replace(curve, name=path.stem)
    return Source(curve, path, kept_as)


def _load_folder(folder: Path, notes: list[str]) -> Iterator[Source]:
    files = sorted(folder.glob("*.json"))
    loaded = 0
    for path in files:
        try:
            source = _from_file(path)
        except DataError as error:
            notes.append(f"left out: {error}")
            continue
        loaded += 1
        yield source
    if not loaded:
        reason = f"; {notes[-1]}" if files else ""
        raise DataError(f"{folder}: has no results file (*.json){reason}")


def _with_own_names(sources: Sequence[Source]) -> list[Source]:
    names = [source.curve.name for source in sources]
    for telling in (_file_name, _folder_name):
        count = Counter(names)
        if max(count.values(), default=0) < 2:
            break
        names = [
            f"{source.curve.name} ({telling(source)})" if count[name] > 1 else name
            for source, name in zip(sources, names, strict=True)
        ]
    for name, times in Counter(names).items():
        if times > 1:
            files = [str(s.file) for s, n in zip(sources, names, strict=True) if n == name]
            raise DataError(f"{' and '.join(files)}: both are named {name!r}; rename one file")
    return [
        dataclasses.replace(source, curve=dataclasses.replace(source.curve, name=name))
        for source, name in zip(sources, names, strict=True)
    ]


def _file_name(source: Source) -> str:
    return "published" if source.file is None else source.file.stem


def _folder_name(source: Source) -> str:
    return "published" if source.file is None else source.file.resolve().parent.name
