"""Codec files: what is written is read, what is claimed is checked, what was written once stays."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from conftest import photo, tiny_model
from lictor.cli.main import main
from lictor.codecs import store
from lictor.codecs.learned import Codec
from lictor.codecs.protocol import NetworkCodec, RateEstimate, WarmUp
from lictor.codecs.store import Stored, read_codec, write_codec
from lictor.coding.codec_file import FIRST_FORMAT, FORMAT
from lictor.coding.container import Container
from lictor.errors import CheckpointError, ModelMismatchError
from lictor.priors.conditional import GaussianPrior

GOLDEN = Path(__file__).parents[1] / "golden"
FORMERS = sorted(GOLDEN.glob("*-format1.lcodec"))


@pytest.fixture
def codec() -> Codec:
    return Codec.freeze(tiny_model("mbt2018-mean"))


def rewrite(path: Path, *, metadata: dict | None = None, tensors: dict | None = None) -> None:
    """Change a codec file and make its fingerprint right again: only checks can refuse it."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = file.metadata() | (metadata or {})
        content = {key: file.get_tensor(key) for key in file.keys()} | (tensors or {})  # noqa: SIM118
    content = {key: tensor for key, tensor in content.items() if tensor is not None}
    stored = Stored(json.loads(about["config"]), content, torch.float32, {}, ())
    about["fingerprint"] = stored.fingerprint.hex()
    path.write_bytes(safetensors.torch.save(content, about))


def test_a_codec_can_all_that_an_evaluation_may_ask(codec):
    for protocol in (NetworkCodec, RateEstimate, WarmUp):
        assert isinstance(codec, protocol)
    codec.warm_up()


def test_the_thresholds_are_in_the_file_and_in_the_fingerprint(codec, tmp_path):
    path = tmp_path / "a.lcodec"
    codec.save(path)
    stored = read_codec(path)
    assert stored.fingerprint == codec.fingerprint
    thresholds = stored.tensors["tables/y/thresholds"]
    assert thresholds.dtype == torch.int32
    assert np.array_equal(thresholds.numpy(), GaussianPrior().tables().thresholds)
    assert "tables/z/thresholds" not in stored.tensors
    moved = thresholds.clone()
    moved[3] += 1
    rewrite(path, tensors={"tables/y/thresholds": moved})
    other = Codec.load(path)
    assert other.fingerprint != codec.fingerprint
    assert np.array_equal(other.tables["y"].thresholds, moved.numpy())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "needs thresholds"),
        (torch.arange(62, dtype=torch.int32), "rows - 1 = 63"),
        (torch.arange(63, dtype=torch.int64), "int32"),
        (torch.arange(63).float(), "int32"),
        (torch.arange(63, 0, -1).int(), "above the last"),
        (torch.zeros(63, dtype=torch.int32), "above the last"),
        (torch.zeros(7, 9, dtype=torch.int32), "dimensions"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(codec, tmp_path, tensor, message):
    path = tmp_path / "a.lcodec"
    codec.save(path)
    rewrite(path, tensors={"tables/y/thresholds": tensor})
    with pytest.raises(CheckpointError, match=rf"a\.lcodec: tables.*{message}"):
        Codec.load(path)


@pytest.mark.parametrize(
    "replaces",
    ["{}", '"ab"', "[3]", '["ab"]', json.dumps(["0" * 17]), json.dumps(["zz" * 8]), "[",
     json.dumps(["00" * 8] * 65)],
)  # fmt: skip
def test_replaced_fingerprints_that_are_none_are_refused(codec, tmp_path, replaces):
    path = tmp_path / "a.lcodec"
    codec.save(path)
    rewrite(path, metadata={"replaces": replaces})
    with pytest.raises(CheckpointError, match=r"a\.lcodec: .*damaged codec file"):
        Codec.load(path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("mbt2018-mean", {"n": 4096, "m": 4096}), ("checkerboard", {"depth": 250})],
)
def test_a_header_that_claims_too_much_is_refused_before_it_is_built(
    tmp_path, monkeypatch, name, changes
):
    path = tmp_path / "a.lcodec"
    Codec.freeze(tiny_model(name)).save(path)
    config = read_codec(path).config
    config = {**config, "hyperparameters": {**config["hyperparameters"], **changes}}
    rewrite(path, metadata={"config": json.dumps(config)})
    built, build = [], store.build_model

    def noted(*arguments):
        built.append(torch.empty(0).device.type)
        return build(*arguments)

    monkeypatch.setattr(store, "build_model", noted)
    with pytest.raises(CheckpointError, match=r"a\.lcodec: .*weights, but it holds"):
        Codec.load(path)
    assert built == ["meta"]  # an outline without numbers, and nothing else


def test_an_unknown_model_is_named(codec, tmp_path):
    path = tmp_path / "a.lcodec"
    codec.save(path)
    config = json.dumps({"model": "no-such-model", "hyperparameters": {}})
    rewrite(path, metadata={"config": config})
    with pytest.raises(CheckpointError, match="no-such-model"):
        Codec.load(path)


def test_tables_of_another_width_are_refused(codec, tmp_path):
    path = tmp_path / "a.lcodec"
    codec.save(path)
    stored = read_codec(path)
    parts = {
        f"tables/z/{part}": stored.tensors[f"tables/y/{part}"]
        for part in ("counts", "lengths", "offset")
    }
    rewrite(path, tensors=parts)
    with pytest.raises(CheckpointError, match="8 channels need a row each, not 64 rows"):
        Codec.load(path)


# --------------------------------------------------------------------------------- conversion


@pytest.mark.parametrize("former", FORMERS, ids=lambda path: path.stem)
def test_a_converted_codec_reads_what_the_former_one_wrote(former, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{FIRST_FORMAT}.*lictor convert .*-o NEW"):
        Codec.load(former)
    converted = Codec.convert(former)
    assert converted.replaces == (read_codec(former, former=True).fingerprint,)
    path = tmp_path / "new.lcodec"
    converted.save(path)
    name = former.stem.removesuffix("-format1")
    again = Codec.load(path)
    assert again.replaces == converted.replaces
    float_codec = Codec.load(GOLDEN / f"{name}.lcodec")
    assert again.fingerprint == Codec.convert(GOLDEN / f"{name}.lcodec").fingerprint
    assert again.margins
    files = list(GOLDEN.glob(f"{name}-?.lic"))
    assert files
    for file in files:
        container = Container.from_bytes(file.read_bytes())
        assert container.fingerprint in again.replaces
        # It is read as the former release read it, and not as the codec's own.
        floats = dataclasses.replace(container, fingerprint=float_codec.fingerprint).to_bytes()
        assert np.array_equal(again.decode(file.read_bytes()), float_codec.decode(floats))


def test_a_codec_that_replaces_none_reads_no_others(codec):
    other = Codec.freeze(tiny_model("mbt2018-mean", seed=1))
    with pytest.raises(ModelMismatchError):
        codec.decode(other.encode(photo(20, 20)))


def test_the_command_converts_once_and_says_what_it_will_not(tmp_path, capsys):
    def lictor(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        printed = capsys.readouterr()
        assert ended.value.code in (0, 1)
        return int(ended.value.code), printed.out + printed.err

    new, again = tmp_path / "new.lcodec", tmp_path / "again.lcodec"
    code, text = lictor("convert", FORMERS[0], "-o", new)
    assert code == 0
    assert Codec.load(new).fingerprint.hex() in text
    written = new.read_bytes()
    for arguments, message in (
        (("convert", FORMERS[0], "-o", new), "exists already"),
        (("convert", new, "-o", again), f"present format '{FORMAT}' already"),
        (("convert", __file__, "-o", again), "not a codec file"),
        (("convert", tmp_path / "none", "-o", again), "cannot read"),
        (("info", FORMERS[0]), "lictor convert"),
    ):
        code, text = lictor(*arguments)
        assert code == 1
        assert message in text.replace("\n", " ")
        assert not again.exists()
    assert new.read_bytes() == written


def test_a_damaged_former_file_is_not_converted(tmp_path):
    path = tmp_path / "old.lcodec"
    data = bytearray(FORMERS[0].read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"old\.lcodec: damaged"):
        Codec.convert(path)


def test_writing_what_was_read_gives_the_same_codec(codec, tmp_path):
    codec.save(tmp_path / "a.lcodec")
    write_codec(tmp_path / "b.lcodec", read_codec(tmp_path / "a.lcodec"))
    first, second = (read_codec(tmp_path / f"{name}.lcodec") for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert (first.config, first.notes) == (second.config, second.notes)
    assert first.replaces == second.replaces
