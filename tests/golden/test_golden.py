"""Files written by earlier releases decode for ever; add files here, never replace any.

Most codecs have random weights: what they decode is no photograph, but depends on every symbol. The
synthesis is float32, so a pixel may differ by one grey level between machines; the symbols, checked
by the file, may not.
"""

from pathlib import Path

import numpy as np
import pytest

from lictor.codecs.learned import Codec
from lictor.coding.codec_file import read_codec_file
from lictor.coding.container import Container, version_of
from lictor.coding.verify import verify
from lictor.data.images import load_image

FOLDER = Path(__file__).parent


def codec_of(file: Path) -> Codec:
    """The codec beside a picture's file; `default` is the one that ships."""
    name = file.stem.rpartition("-")[0]
    return Codec.default() if name == "default" else Codec.load(FOLDER / f"{name}.lcodec")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.lic")), ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_picture(file):
    decoded = codec_of(file).decode(file.read_bytes())
    expected = load_image(file.with_suffix(".png"))
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    assert expected.std() > 1  # a blank picture would prove nothing


def test_the_golden_files_are_there():
    files = [file.read_bytes() for file in FOLDER.glob("*.lic")]
    versions = [version_of(data) for data in files]
    assert versions.count(1) >= 8
    assert versions.count(2) >= 5
    assert sum(len(Container.from_bytes(data).tiles) > 1 for data in files) >= 4


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*-v2*.lic")), ids=lambda path: path.stem)
def test_what_a_golden_file_holds_is_written_as_it_is_there(file):
    """Bytes of version 2 never change: those of header, index and checksums."""
    data = file.read_bytes()
    assert Container.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize("file", sorted(FOLDER.glob("exact-*.lic")), ids=lambda path: path.stem)
def test_the_reference_decoder_reads_golden_files(file):
    codec = read_codec_file(FOLDER / f"{file.stem.rpartition('-')[0]}.lcodec")
    assert verify(file.read_bytes(), codec).tiles == (4 if file.stem.endswith("3") else 1)
