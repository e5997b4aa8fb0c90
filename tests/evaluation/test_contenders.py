"""A text names a codec at some settings, or says why it does not."""

import pickle

import pytest

from conftest import photo, tiny_model
from lictor.codecs.learned import Codec
from lictor.errors import ConfigError
from lictor.evaluation.contenders import (
    Contender,
    Setting,
    parse_contender,
    parse_contenders,
)
from lictor.evaluation.journal import config_hash
from lictor.evaluation.peers import PEERS, PillowCodec


@pytest.fixture(scope="module")
def codec_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    paths = []
    for seed in range(2):
        path = folder / f"tiny-{seed}.lcodec"
        Codec.freeze(tiny_model("bmshj2018-factorized", seed)).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_comes_with_its_usual_qualities_or_those_asked_for(name):
    contender = parse_contender(name)
    assert contender.name == name
    assert len(contender.settings) == len(PEERS[name].qualities)
    other = parse_contender(f"mine={name}:20,{22 if PEERS[name].whole else 22.5}")
    assert other.name == "mine"
    assert len(other.settings) == 2
    assert other.settings[0].label == "q20"


def test_a_setting_makes_the_codec_that_its_configuration_says():
    (setting,) = parse_contender("avif:37").settings
    codec = pickle.loads(pickle.dumps(setting.make))()
    assert isinstance(codec, PillowCodec)
    assert codec.options["quality"] == 37 == setting.config["options"]["quality"]
    assert setting.config["library"]


def test_codec_files_make_one_curve(codec_files):
    spec = ",".join(map(str, codec_files))
    contender = parse_contender(f"family={spec}")
    assert contender.name == "family"
    assert [setting.label for setting in contender.settings] == ["tiny-0", "tiny-1"]
    image = photo(20, 30)
    for setting, path in zip(contender.settings, codec_files, strict=True):
        made = pickle.loads(pickle.dumps(setting.make))()
        assert made.encode(image) == Codec.load(path).encode(image)
        assert setting.config["fingerprint"] == Codec.load(path).fingerprint.hex()
    assert parse_contender(spec).name == "tiny-0"
    assert len({config_hash(setting) for setting in contender.settings}) == 2


def test_a_codec_file_may_have_any_name(codec_files, tmp_path, monkeypatch):
    plain = tmp_path / "mine"
    plain.write_bytes(codec_files[0].read_bytes())
    image = photo(20, 30)
    expected = Codec.load(codec_files[0]).encode(image)
    for spec in (str(plain), f"{plain},{codec_files[1]}"):
        contender = parse_contender(spec)
        assert contender.name == "mine"
        assert contender.settings[0].make().encode(image) == expected
    monkeypatch.chdir(tmp_path)
    assert parse_contender("mine").settings[0].make().encode(image) == expected
    plain.rename("jpeg")  # what has a meaning of its own keeps it
    assert parse_contender("jpeg").description == PEERS["jpeg"].description
    for spec in ("mine", "nothing," + str(codec_files[0]), "x" * 5000):
        with pytest.raises(ConfigError, match="is no codec"):
            parse_contender(spec)


def test_an_equals_sign_in_a_folder_names_no_curve(codec_files, tmp_path):
    folder = tmp_path / "lr=3"
    folder.mkdir()
    path = folder / "a.lcodec"
    path.write_bytes(codec_files[0].read_bytes())
    assert parse_contender(str(path)).name == "a"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "empty"),
        ("jepg", "is no codec: choose default, jpeg"),
        ("mine=", "is no codec"),
        ("jpeg:101", "not from 0 to 100"),
        ("jpeg:-1", "not from 0 to 100"),
        ("jpeg:5,5", "q5 is there twice"),
        ("jpeg:1.2.3", "could not convert"),
        ("webp:50.5", "whole number"),
        ("original=jpeg", "cannot name a curve"),
        ("..=jpeg", "cannot name a curve"),
        ("default:3", "one rate"),
        ("none.toml", "none.toml: no such"),
    ],
)
def test_what_names_no_codec_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        parse_contender(spec)


def test_two_curves_never_share_a_file():
    with pytest.raises(ConfigError, match="two codecs are called 'jpeg'"):
        parse_contenders(["jpeg", "jpeg:50"])
    with pytest.raises(ConfigError, match="two codecs"):
        parse_contenders(["A=jpeg", "a=webp"])
    assert len(parse_contenders(["jpeg", "other-jpeg=jpeg:50"])) == 2


@pytest.mark.parametrize("name", ["a/b", "", "a b", ".hidden", "a\nb", "original"])
def test_a_name_is_a_file_name(name):
    with pytest.raises(ConfigError, match="cannot name a curve"):
        Contender(name, (Setting("s", lambda: PEERS["jpeg"].make(5), {}),))
