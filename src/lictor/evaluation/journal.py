"""Rows of an evaluation on disk: kept as they come, found again, settled into results files.

While codecs are measured, rows are kept in `NAME.partial.jsonl` beside the results file
`NAME.json`; rows of either that are still of the same setting need not be measured again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from lictor.codecs.protocol import ImageCodec
from lictor.comparison.curve import (
    Curve,
    ImageResult,
    curve_to_json,
    row_from_json,
    row_to_json,
)
from lictor.errors import DataError
from lictor.evaluation.contenders import Contender, Setting
from lictor.files import write_file


def settle(curve: Curve, contender: Contender, out: Path) -> Curve:
    """Write a curve's file; rows and costs that it would drop are kept."""
    path, journal = out / f"{contender.name}.json", _journal_path(out, contender.name)
    kept: dict[tuple[str, ...], str] = {}
    for config, row in (*_final_rows(out, contender), *_partial_rows(out, contender)):
        if isinstance(row, dict):
            key = (config, *(str(row.get(k)) for k in ("setting", "image", "sha256")))
            kept[key] = json.dumps({"config": config, "row": row})
    hashes = {setting.label: config_hash(setting) for setting in contender.settings}
    for row in curve.rows:
        kept.pop((hashes[row.setting], row.setting, row.image, row.sha256), None)
    speed = _known_costs(path, hashes)
    if speed:
        curve = replace(curve, codec={**curve.codec, "speed": speed})
    save_curve(curve, path)
    if kept:
        write_file(journal, "".join(f"{line}\n" for line in kept.values()).encode())
    else:
        journal.unlink(missing_ok=True)
    return curve


def _known_costs(path: Path, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the costs measured earlier of settings that are still the same."""
    try:
        codec = json.loads(path.read_text(encoding="utf-8"))["codec"]
        configs = {k: config_hash(Setting(k, _no_codec, v)) for k, v in codec["settings"].items()}
        speed = codec.get("speed", {})
        return {k: v for k, v in speed.items() if k in configs and configs[k] == hashes.get(k)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save_curve(curve: Curve, path: Path) -> None:
    """Write a results file; raises `DataError` if it cannot."""
    content = curve_to_json(curve)
    rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in content.pop("images"))
    head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
    # One line a row: what changed between two results is what `diff` shows.
    text = f'{head},\n "images": [\n  {rows}\n ]\n}}\n'
    write_file(path, text.encode())


def config_hash(setting: Setting) -> str:
    """Return a hash of what a setting is."""
    text = json.dumps(dict(setting.config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _journal_path(out: Path, contender: str) -> Path:
    return out / f"{contender}.partial.jsonl"


class Journal:
    """Appends rows to each codec's partial file as they come."""

    def __init__(self, out: Path):
        self._out = out
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> "Journal":
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self._out}: cannot make the folder ({error.strerror})") from error
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, name: str, setting: Setting, row: ImageResult) -> None:
        """Keep a row of a contender; raises `DataError` when it cannot be written."""
        line = {"config": config_hash(setting), "row": row_to_json(row)}
        try:
            if name not in self._files:
                self._files[name] = _journal_path(self._out, name).open("a", encoding="utf-8")
                self._files[name].write("\n")  # the last line may have been cut short
            self._files[name].write(json.dumps(line) + "\n")
            self._files[name].flush()
        except OSError as error:
            raise DataError(
                f"{_journal_path(self._out, name)}: cannot write ({error.strerror})"
            ) from error


def known_rows(out: Path, contender: Contender) -> dict[tuple[str, str], ImageResult]:
    """Return rows measured earlier at settings that are still the same, by setting and picture."""
    wanted = {setting.label: config_hash(setting) for setting in contender.settings}
    rows: dict[tuple[str, str], ImageResult] = {}
    for config, content in (*_final_rows(out, contender), *_partial_rows(out, contender)):
        try:
            row = row_from_json(content, "row")
        except DataError:
            continue  # of another release, or damaged: measure again
        if wanted.get(row.setting) == config:
            rows[row.setting, row.image] = row
    return rows


def _final_rows(out: Path, contender: Contender) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads((out / f"{contender.name}.json").read_text(encoding="utf-8"))
        settings = content["codec"]["settings"]
        configs = {k: config_hash(Setting(k, _no_codec, v)) for k, v in settings.items()}
        yield from [(configs[row["setting"]], row) for row in content["images"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def _no_codec() -> ImageCodec:
    raise AssertionError("a stored setting is compared, not made")


def _partial_rows(out: Path, contender: Contender) -> Iterator[tuple[str, Any]]:
    try:
        text = _journal_path(out, contender.name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            content = json.loads(line)
            yield content["config"], content["row"]
        except (ValueError, KeyError, TypeError):
            continue  # the line that was being written when the power went
