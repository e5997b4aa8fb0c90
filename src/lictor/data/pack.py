"""Packing folders of pictures into shards: once, and from where it was stopped.

    packing.jsonl      while it goes on: the plan, then a line for each finished shard

A shard is written beside its place and renamed, the manifest comes last.
"""

import hashlib
import io
import json
import logging
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from lictor.data.folder import Progress, as_rgb
from lictor.data.images import list_images, load_image
from lictor.data.prefetch import Prefetcher
from lictor.data.shards import (
    COLUMNS,
    FORMAT,
    JOURNAL,
    MANIFEST,
    Local,
    Manifest,
    check_files,
    read_manifest,
)
from lictor.data.sources import titles
from lictor.errors import ConfigError, DataError
from lictor.files import atomic_file, locked_folder, write_file

_log = logging.getLogger(__name__)
_BLOCK = 512
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Packing:
    """How pictures are packed.

    Args:
        raw: store pixels rather than files: much larger, and no decoding in training.
        max_side: shrink pictures until no side is longer; 0 for not.
        shard_bytes: shards end before they are larger, unless a single picture is.
        jobs: threads that decode.
    """

    raw: bool = False
    max_side: int = 0
    shard_bytes: int = 2**30
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.max_side < 0 or self.shard_bytes < 1 or self.jobs < 1:
            raise ConfigError("packing needs shards and jobs of at least 1, and no negative sides")


@dataclass(frozen=True)
class Packed:
    """What `pack` did: the manifest, and how many shards were there already."""

    manifest: Manifest
    shards_before: int


@dataclass(frozen=True)
class _Member:
    """A picture as a shard stores it."""

    name: str
    suffix: str
    data: bytes
    height: int
    width: int


def _prepared(name: str, path: Path, how: Packing) -> _Member | DataError:
    try:
        image = load_image(path)
        shrinks = 0 < how.max_side < max(image.shape[:2])
        suffix, data = path.suffix.lower(), b""
        if not (how.raw or shrinks):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: cannot read ({error.strerror})") from error
    except DataError as error:
        return error
    if shrinks:
        scale = how.max_side / max(image.shape[:2])
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        whole = Image.fromarray(as_rgb(image))
        image = np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS))
    height, width = image.shape[:2]
    if how.raw:
        suffix, data = ".ppm", b"P6\n%d %d\n255\n" % (width, height) + as_rgb(image).tobytes()
    elif shrinks:
        suffix = ".jpg" if suffix in (".jpg", ".jpeg") else ".png"
        buffer = io.BytesIO()
        lossy = {"quality": _JPEG_QUALITY, "subsampling": 0}
        Image.fromarray(image).save(
            buffer, "JPEG" if suffix == ".jpg" else "PNG", **(lossy if suffix == ".jpg" else {})
        )
        data = buffer.getvalue()
    return _Member(name, suffix, data, height, width)


def _listed(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return all pictures with their names; those of several folders begin with the folder's."""
    prefixes = titles([str(folder) for folder in folders]) if len(folders) > 1 else [""]
    return [
        (f"{prefix}{path.relative_to(folder).as_posix()}", path)
        for prefix, folder in zip(prefixes, folders, strict=True)
        for path in list_images(folder)
    ]


def _plan(listed: Sequence[tuple[str, Path]], how: Packing) -> str:
    """Return what tells one packing from another: the files, and how they are packed."""
    files = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in listed]
    tree = [FORMAT, how.raw, how.max_side, how.shard_bytes, files]
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()[:16]


def pack(
    folders: Sequence[Path],
    out: Path,
    how: Packing | None = None,
    *,
    on_progress: Progress = lambda *_: None,
) -> Packed:
    """Pack the pictures of folder trees into shards in the folder `out`, with a manifest.

    A picture that cannot be read is named in the log and left out. What an earlier call with the
    same arguments has finished is kept; a complete collection stays as it is, unless a shard of it
    is missing or cut short: then all are made again. `on_progress(done, total)` is called for each
    picture. Raises `ConfigError` when `out` holds another packing, `DataError` when it cannot be
    written or no picture can be read.
    """
    how = how or Packing()
    listed = _listed(folders)
    plan = _plan(listed, how)
    with locked_folder(out):
        if (out / MANIFEST).exists():
            there = read_manifest(Local(out))
            if there.plan != plan:
                raise ConfigError(_other(out))
            try:
                check_files(Local(out), there)
            except DataError as error:
                _log.warning("%s: its shards are made again (%s)", out, error)
                _begin_anew(out, there)
            else:
                (out / JOURNAL).unlink(missing_ok=True)
                return Packed(there, len(there.shards))
        lines = _finished(out, plan)
        done = len(lines)
        start = lines[-1]["next"] if lines else 0
        for line in _shards(listed, how, out, done, start, on_progress, lines):
            lines.append(line)
            _note(out / JOURNAL, line)
        skipped = tuple(reason for line in lines for reason in line["skipped"])
        if skipped:
            _log.warning("skipped %d unreadable pictures", len(skipped))
        rows = [(number, *row) for number, line in enumerate(lines) for row in line["rows"]]
        if not rows:
            (out / JOURNAL).unlink(missing_ok=True)
            raise DataError(f"{folders[0]}: none of the {len(skipped)} pictures can be read")
        manifest = Manifest(
            raw=how.raw,
            shards=tuple((line["file"], line["size"]) for line in lines if line["rows"]),
            names=tuple(name for line in lines for name in line["names"]),
            columns={
                name: np.array([row[place] for row in rows], np.int64)
                for place, name in enumerate(COLUMNS)
            },
            skipped=skipped,
            plan=plan,
        )
        write_file(out / MANIFEST, manifest.to_json())
        (out / JOURNAL).unlink(missing_ok=True)
    return Packed(manifest, done)


def _begin_anew(out: Path, damaged: Manifest) -> None:
    """Turn a damaged collection into a packing of which nothing is finished."""
    write_file(out / JOURNAL, (json.dumps({"plan": damaged.plan}) + "\n").encode())
    try:
        (out / MANIFEST).unlink()
    except OSError as error:
        raise DataError(f"{out / MANIFEST}: cannot remove ({error.strerror})") from error


def _other(out: Path) -> str:
    return (
        f"{out}: holds a packing of other pictures or with other options; "
        "give the same, or choose another folder"
    )


def _note(journal: Path, line: dict[str, Any]) -> None:
    try:
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise DataError(f"{journal}: cannot write ({error.strerror})") from error


def _finished(out: Path, plan: str) -> list[dict[str, Any]]:
    """Return the lines of the shards that are there, as far as they are whole; begin a journal."""
    journal, lines = out / JOURNAL, []
    if journal.exists():
        for text in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # cut short when it was killed
                break
        if lines and lines[0].get("plan") != plan:
            raise ConfigError(_other(out))
    elif any(out.glob("*.tar")):
        raise ConfigError(f"{out}: holds tar files already; choose another folder")
    whole = []
    for line in lines[1:]:
        path = out / line["file"]
        if not path.is_file() or path.stat().st_size != line["size"]:
            break
        whole.append(line)
    kept = [{"plan": plan}, *whole]
    write_file(journal, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return whole


def _shards(
    listed: Sequence[tuple[str, Path]],
    how: Packing,
    out: Path,
    first_shard: int,
    start: int,
    on_progress: Progress,
    before: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Write shards from a picture on, and yield a line of the journal for each."""
    members = _Members(listed, how, start, on_progress)
    picture = sum(len(line["rows"]) for line in before)
    shard = first_shard
    while members.head is not None:
        file = f"shard-{shard:06d}.tar"
        rows, names = [], []
        with atomic_file(out / file) as opened:
            while (head := members.head) is not None:
                if rows and opened.tell() + _BLOCK + len(head.data) > how.shard_bytes:
                    break
                offset = _add(opened, f"{picture:08d}{head.suffix}", head.data)
                crc = zlib.crc32(head.data)
                rows.append((offset, len(head.data), head.height, head.width, crc))
                names.append(head.name)
                picture += 1
                members.advance()
            opened.write(bytes(2 * _BLOCK))
            size = opened.tell()
        yield {
            "file": file,
            "size": size,
            "next": members.number,
            "rows": rows,
            "names": names,
            "skipped": members.take_skipped(),
        }
        shard += 1
    rest = members.take_skipped()
    if rest:  # nothing readable came behind them
        yield {"file": "", "size": 0, "next": len(listed), "rows": [], "names": [], "skipped": rest}


class _Members:
    """The readable pictures from a number on, one ahead; what is not readable is remembered.

    `head` is the next one, None at the end, and `number` its place in the list.
    """

    def __init__(
        self,
        listed: Sequence[tuple[str, Path]],
        how: Packing,
        start: int,
        on_progress: Progress,
    ):
        self._total, self._on_progress = len(listed), on_progress

        def prepare(number: int) -> _Member | DataError | None:
            return _prepared(*listed[number], how) if number < len(listed) else None

        self._items = iter(Prefetcher(prepare, start, depth=2 * how.jobs, workers=how.jobs))
        self._skipped: list[str] = []
        self.head: _Member | None = None
        self.number = start - 1
        self.advance()

    def advance(self) -> None:
        """Go to the next readable picture."""
        while True:
            self.number += 1
            self._on_progress(min(self.number, self._total), self._total)
            item = next(self._items)
            if not isinstance(item, DataError):
                self.head = item
                return
            _log.warning("skipped: %s", item)
            self._skipped.append(str(item))

    def take_skipped(self) -> list[str]:
        """Return the reasons of what was left out since the last call."""
        taken, self._skipped = self._skipped, []
        return taken


def _add(file: IO[bytes], name: str, data: bytes) -> int:
    """Append a member to a tar file; return where its bytes begin."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    offset = file.tell()
    file.write(data)
    file.write(bytes(-len(data) % _BLOCK))
    return offset
