"""Coverage-guided fuzzing of whatever reads foreign bytes; needs atheris, which no test needs.

    pip install atheris
    python tests/fuzz/fuzz.py TARGET CORPUS [-max_total_time=1800] [libFuzzer options]

A target gets bytes, as they are and with their checksums mended, and may raise what it says it
raises, nothing else; it may neither hang nor allocate much more than the bytes claim within the
limits. TARGET is

- `container`: `Container.from_bytes` and `Container.salvage`;
- `decode`: `Codec.decode` of a small codec, `max_pixels` 2^16;
- `reference`: the reference decoder of the same codec;
- `codec`: `read_codec_file` and `Codec.load`;
- `signals`: `Archive.from_bytes`.

An empty corpus folder is filled with small real files first. What is found goes into
`tests/fuzz/found` as `TARGET-NAME`, where `test_found.py` reads it for ever.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    import atheris  # pyright: ignore[reportMissingImports]

    # What numba compiles must stay as it is.
    compiled = ["lictor.coding.rans", "lictor.coding.crc"]
    with atheris.instrument_imports(include=["lictor"], exclude=compiled):
        import targets


def main() -> None:
    name, corpus = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        target: Callable[[bytes], None] = targets.TARGETS[name](Path(folder))
        corpus.mkdir(parents=True, exist_ok=True)
        if not any(corpus.iterdir()):
            for number, seed in enumerate(targets.seeds(name)):
                (corpus / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
