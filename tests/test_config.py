"""Recipes: what is valid loads, what is not is named."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lictor.config import (
    RunConfig,
    config_from_dict,
    config_to_dict,
    load_recipe,
    nearest,
)
from lictor.errors import ConfigError
from lictor.layers.quantize.surrogate import SURROGATES
from lictor.models.zoo import build_model
from lictor.optim.factory import OPTIMIZERS
from lictor.training.schedule import SCHEDULES

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_recipe_is_the_default(tmp_path):
    assert load_recipe(write(tmp_path, "")) == RunConfig()


def test_every_field_of_every_section_is_documented():
    source = (Path(__file__).parents[1] / "src/lictor/config.py").read_text(encoding="utf-8")
    for section in dataclasses.fields(RunConfig):
        assert section.type.__doc__
        for f in dataclasses.fields(section.type):
            declaration = source.split(f"    {f.name}: ", 1)[1]
            assert declaration.split("\n", 2)[1].strip().startswith('"""'), f.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_that_ship_load_and_name_things_that_exist(path):
    config = load_recipe(path)
    assert build_model(config.model.name, config.model.hyperparameters)
    assert config.surrogate.name in SURROGATES
    assert config.optim.name in OPTIMIZERS
    assert config.optim.schedule in SCHEDULES


def test_there_is_a_recipe():
    assert RECIPES


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[trian]\nsteps = 3", ["[trian]", "did you mean 'train'"]),
        ("[train]\nstep = 3", ["'step'", "[train]", "did you mean 'steps'"]),
        ("[optim]\nqqq = 3", ["'qqq'", "[optim]", "valid: name, lr"]),
        ("train = 3", ["'train'", "must be a section"]),
        ("[train]\nsteps = 3.0", ["train.steps = 3.0", "must be an integer"]),
        ("[train]\nsteps = '3'", ["train.steps = '3'", "must be an integer"]),
        ("[train]\nsteps = true", ["train.steps = True", "must be an integer"]),
        ("[optim]\nlr = '1e-3'", ["optim.lr", "must be a number"]),
        ("[optim]\nlr = nan", ["optim.lr", "finite"]),
        ("[optim]\nlr = inf", ["optim.lr", "finite"]),
        (f"[optim]\nlr = 1{'0' * 400}", ["optim.lr"]),
        ("[optim]\nlr = 0", ["optim.lr = 0", "positive"]),
        ("[optim]\nname = 7", ["optim.name = 7", "must be a string"]),
        ("[optim]\nname = []", ["optim.name", "must be a string"]),
        ("[optim]\nwarmup = 1.0", ["optim.warmup", "from 0 to below 1"]),
        ("[loss]\nlmbda = -1", ["loss.lmbda", "positive"]),
        ("[data]\ncrop_size = 100", ["data.crop_size = 100", "multiple of 64"]),
        ("[data]\ncrop_size = 0", ["data.crop_size = 0", "multiple of 64"]),
        ("[train]\nseed = -1", ["train.seed", "from 0"]),
        ("[train]\nprecision = 'float16'", ["train.precision", "float32 or bfloat16"]),
        ("[model]\nn = 1.5", ["model.n = 1.5", "must be an integer"]),
        ("[model]\nname = 1", ["model.name = 1", "must be a string"]),
        ("[train\nsteps = 3", ["not valid TOML", "line 1"]),
    ],
)
def test_an_error_names_the_file_the_key_and_what_would_be_right(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_recipe(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert [part for part in parts if part not in message] == []


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "absent.toml", binary):
        with pytest.raises(ConfigError, match="cannot read the recipe") as raised:
            load_recipe(path)
        assert str(path) in str(raised.value)


def test_keys_beside_the_models_name_are_its_hyperparameters(tmp_path):
    config = load_recipe(write(tmp_path, "[model]\nname = 'checkerboard'\nn = 12\ndepth = 1"))
    assert config.model.hyperparameters == {"n": 12, "depth": 1}
    with pytest.raises(ConfigError, match=r"'checkerboard'.*'width'"):
        build_model("checkerboard", {"width": 3})
    with pytest.raises(ConfigError, match="unknown model 'chekerboard'"):
        build_model("chekerboard", {})


def test_overrides_win_in_order_and_are_checked_like_the_file(tmp_path):
    path = write(tmp_path, "[train]\nsteps = 3\nseed = 4")
    config = load_recipe(
        path,
        ("train.steps=5", "train.steps=6", "optim.name=soap", "optim.lr=1e-2", "model.n=9"),
    )
    assert (config.train.steps, config.train.seed) == (6, 4)
    assert (config.optim.name, config.optim.lr) == ("soap", 0.01)
    assert config.model.hyperparameters == {"n": 9}
    for override, part in [
        ("train.steps", "must look like section.key=value"),
        ("steps=3", "must look like section.key=value"),
        ("train.stepps=3", "did you mean 'steps'"),
        ("trian.steps=3", "did you mean 'train'"),
        ("train.steps=many", "must be an integer"),
        ("train.stepps=", "did you mean 'steps'"),
        ("trian.steps=", "did you mean 'train'"),
        ("model.depth=", "unknown key 'depth'"),
    ]:
        with pytest.raises(ConfigError, match=part):
            load_recipe(path, (override,))
    with pytest.raises(ConfigError, match="'train' is not a section"):
        load_recipe(write(tmp_path, "train = 3"), ("train.steps=3",))


def test_an_override_without_a_value_gives_the_default_back(tmp_path):
    path = write(tmp_path, '[train]\nsteps = 3\n[model]\nname = "checkerboard"\nn = 8\ndepth = 1')
    config = load_recipe(path, ("train.steps=", "model.depth=", "train.seed="))
    assert config.train == RunConfig().train
    assert config.model.hyperparameters == {"n": 8}
    assert load_recipe(path, ("train.steps=5", "train.steps=")).train.steps == 100_000
    assert load_recipe(path, ("train.steps=", "train.steps=5")).train.steps == 5


@pytest.mark.parametrize("order", [1, -1])
def test_a_switch_of_the_model_takes_the_defaults_of_the_other_one(tmp_path, order):
    path = write(tmp_path, '[model]\nname = "checkerboard"\nn = 8\nm = 8\ndepth = 1')
    overrides = ("model.name=mbt2018-mean", "model.n=12", "model.depth=")[::order]
    config = load_recipe(path, overrides)
    assert (config.model.name, config.model.hyperparameters) == ("mbt2018-mean", {"n": 12})
    build_model(config.model.name, config.model.hyperparameters)
    same = load_recipe(path, ("model.name=checkerboard",))
    assert same.model.hyperparameters == {"n": 8, "m": 8, "depth": 1}


@st.composite
def any_config(draw) -> RunConfig:
    words = st.text("abcxyz-0", min_size=1, max_size=6)
    rate = st.floats(1e-9, 1e9)
    tree = {
        "model": {"name": draw(words)}
        | draw(st.dictionaries(words.map("k{}".format), st.integers(-9, 999), max_size=3)),
        "loss": {"lmbda": draw(rate | st.integers(1, 9))},
        "surrogate": {"name": draw(words)},
        "optim": {"lr": draw(rate), "warmup": draw(st.floats(0, 0.99)), "final": draw(st.just(1))},
        "data": {"crop_size": 64 * draw(st.integers(1, 9)), "min_scale": draw(st.floats(0.1, 1))},
        "train": {
            "seed": draw(st.integers(0, 2**63 - 1)),
            "precision": draw(st.sampled_from(["float32", "bfloat16"])),
        },
    }
    return config_from_dict(tree, source="drawn")


@given(any_config())
def test_from_dict_undoes_to_dict_and_types_are_exact(config):
    tree = config_to_dict(config)
    assert config_from_dict(tree, source="tree") == config
    assert config_to_dict(config_from_dict(tree, source="tree")) == tree
    assert type(config.loss.lmbda) is type(config.optim.final) is float


def test_to_dict_shares_nothing_with_the_config():
    config = config_from_dict({"model": {"name": "m", "n": 3}}, source="here")
    config_to_dict(config)["model"]["n"] = 4
    assert config.model.hyperparameters == {"n": 3}


def test_nearest_names_one_close_word_or_all_words():
    assert nearest("warmpu", ["lr", "warmup"]) == "did you mean 'warmup'?"
    assert nearest("zzz", ["lr", "warmup"]) == "valid: lr, warmup"


def test_reading_a_recipe_does_not_import_torch():
    code = "import sys, lictor.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
