"""`lictor data`: what is done to pictures before a training."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from lictor.cli.messages import complain, say
from lictor.errors import ConfigError

Folders = Annotated[tuple[Path, ...], arg(metavar="DIR...", help_behavior_hint="")]


def pack(
    folders: Positional[Folders],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"], metavar="SHARDS")],
    raw: bool = False,
    max_side: int = 0,
    shard_mib: int = 1024,
    jobs: int = 2,
) -> int:
    """Pack folders of pictures into tar shards, for `lictor train --data SHARDS`.

    WebDataset reads the shards as well. A packing that was stopped goes on with the same command.
    Pictures that cannot be read are named and left out.

    Args:
        folders: Folder trees of PNG, JPEG and WebP pictures.
        out: Folder for the shards and their manifest.
        raw: Store pixels rather than files: ten times as large, and no decoding in training.
        max_side: Shrink pictures until no side is longer; 0 for not.
        shard_mib: Largest size of a shard.
        jobs: Pictures decoded at a time.
    """
    from lictor.cli.progress import counted, log_to_terminal
    from lictor.data.pack import Packing, pack

    if not folders:
        complain("pack needs at least one folder; see --help")
        return 2
    for name, value, least in (("max-side", max_side, 0), ("shard-mib", shard_mib, 1)):
        if value < least:
            raise ConfigError(f"--{name} {value} must be at least {least}")
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs} must be at least 1")
    log_to_terminal()
    how = Packing(raw=raw, max_side=max_side, shard_bytes=shard_mib * 2**20, jobs=jobs)
    with counted("packing") as on_progress:
        packed = pack(folders, out, how, on_progress=on_progress)
    manifest, before = packed.manifest, packed.shards_before
    size = sum(size for _, size in manifest.shards) / 2**20
    there = f"  {before} of them were there" if before else ""
    left_out = f"  {len(manifest.skipped)} left out" if manifest.skipped else ""
    shards = f"{len(manifest.shards)} shard{'s' if len(manifest.shards) != 1 else ''}"
    say(f"{out}  {len(manifest.names)} pictures{left_out}  {shards}{there}  {size:.1f} MiB")
    return 0


DATA: dict[str, Callable[..., int]] = {"pack": pack}
