"""Recipes: what is valid loads, what is not is named."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lictor.config import read, write
from lictor.errors import ConfigError
from lictor.layers.quantize.catalogue import SURROGATES
from lictor.models.zoo import MODELS, build_model
from lictor.optim.factory import OPTIMIZERS
from lictor.training.phases import Phase, check_shares, phase_at
from lictor.training.recipe import (
    SECTIONS,
    ModelConfig,
    OptimConfig,
    RunConfig,
    config_from_dict,
    config_to_dict,
    load_recipe,
)
from lictor.training.schedule import SCHEDULES

# Those of signals are tried in `implicit/test_signal_run.py`.
RECIPES = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes").rglob("*.toml")
    if path.parent.name != "signals"
)


def write_toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_recipe_is_the_default(tmp_path):
    assert load_recipe(write_toml(tmp_path, "")) == RunConfig()


def _sections() -> set[type]:
    """Every dataclass that holds settings: sections, phases, and what choices have."""
    tables = (MODELS, OPTIMIZERS, SCHEDULES, SURROGATES)
    chosen = {line.settings for table in tables for line in table.values()}
    return {*SECTIONS.values(), Phase, *chosen}


def test_every_setting_is_documented():
    for section in _sections():
        assert section.__doc__
        source = inspect.getsource(section)
        for f in dataclasses.fields(section):
            if f"    {f.name}: " in source:  # else its base has it
                declaration = source.split(f"    {f.name}: ", 1)[1]
                assert declaration.split("\n", 2)[1].strip().startswith('"""'), f.name


def test_the_default_of_every_setting_passes_its_rule():
    for section in _sections():
        for f in dataclasses.fields(section):
            rule = f.metadata.get("rule")
            if rule is not None and f.default not in (None, dataclasses.MISSING):
                assert rule.allows(f.default), (section, f.name)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_that_ship_load_and_name_things_that_exist(path):
    config = load_recipe(path)
    model = MODELS[config.model.name].make(config.model.settings)
    settings = config.model.settings
    assert read(type(settings), dict(model.hyperparameters()), "", "") == settings


@pytest.mark.parametrize("name", MODELS)
def test_the_recipe_that_the_table_names_trains_this_model(name):
    folder = Path(__file__).parents[2] / "recipes"
    assert load_recipe(folder / MODELS[name].recipe).model.name == name


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
        ("[model]\nn = 5000", ["model.n = 5000", "from 1 to 4096"]),
        ("[model]\ndept = 3", ["'dept'", "[model]"]),
        ("[model]\nname = 'mbt2018-maen'", ["unknown model 'mbt2018-maen'", "mbt2018-mean"]),
        ("[model]\ndepth = 3", ["model.depth is a setting of checkerboard, not of mbt2018-mean"]),
        ("[optim]\nfactor_beta = 0.9", ["optim.factor_beta is a setting of soap, not of adam"]),
        ("[optim]\nname = 'soap'\nfactor_bet = 0.9", ["did you mean 'factor_beta'"]),
        ("[optim]\nname = 'sop'", ["unknown optimizer 'sop'", "adam, adamw, soap, muon"]),
        ("[optim]\nschedule = 'cosine'\nflat = 0.5", ["optim.flat is a setting of flat-cosine"]),
        ("[surrogate]\nname = 'sau'", ["unknown surrogate 'sau'", "did you mean 'sua'"]),
        ("[surrogate]\nname = 'sua'\nvariant = 'b'", ["surrogate.variant = 'b'", "mean 'B'"]),
        (
            "[surrogate]\nname = 'sua'\ntemperature = 1.5",
            ["[surrogate] name = 'sua'", "temperature = 1.5 must be from 0 to 1"],
        ),
        (
            "[surrogate]\nname = 'sga'\nanneal_from = 0.9\nanneal_until = 0.5",
            ["[surrogate] name = 'sga'", "anneal_until = 0.5", "anneal_from = 0.9"],
        ),
        (
            "[surrogate]\nname = 'pair'\nsynthesis = 'sga'",
            ["[surrogate] name = 'pair'", "this pair leaks"],
        ),
        ("[surrogate]\nname = 'sua'\nvariant = 'C'", ["[surrogate] name = 'sua'", "leaks"]),
        ("[[phase]]\nshare = 1\nsurrogate = 'sau'", ["phase[0].surrogate", "mean 'sua'"]),
        ("[surrogate]\nmean_gradient = 'some'", ["surrogate.mean_gradient", "none, recon or full"]),
        ("[phase]\nshare = 1", ["'phase' must be a list", "[[phase]]"]),
        ("[[phase]]\nshare = 0.4\n[[phase]]\nshare = 0.5", ["add up to 1", "0.4 + 0.5 = 0.9"]),
        ("[[phase]]\nlr = 1e-3", ["phase[0].share is missing"]),
        ("[[phase]]\nshare = 0", ["phase[0].share = 0", "above 0"]),
        ("[[phase]]\nshare = 1\nfreeze = 'g_a'", ["phase[0].freeze = 'g_a'", "must be a list"]),
        ("[[phase]]\nshare = 1\nfreeze = [3]", ["phase[0].freeze[0] = 3", "must be a string"]),
        ("[[phase]]\nshare = 1\nsurrogate = 'x'", ["phase[0].surrogate = 'x'", "mixed"]),
        ("[model]\nname = 1", ["model.name = 1", "must be a string"]),
        ("[train\nsteps = 3", ["not valid TOML", "line 1"]),
    ],
)
def test_an_error_names_the_file_the_key_and_what_would_be_right(tmp_path, text, parts):
    path = write_toml(tmp_path, text)
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


def test_keys_beside_a_name_are_the_settings_of_what_it_names(tmp_path):
    config = load_recipe(write_toml(tmp_path, "[model]\nname = 'checkerboard'\nn = 12\ndepth = 1"))
    customary = {"prior": "gaussian", "prior_z": "factorized"}
    assert write(config.model.settings) == {"n": 12, "m": 128, "depth": 1, **customary}
    assert config.model == ModelConfig("checkerboard", {"n": 12, "depth": 1})
    config = load_recipe(
        write_toml(tmp_path, "[optim]\nname = 'soap'\nshapes = 'matrix'\nflat = 0.2")
    )
    assert config.optim.settings.shapes == "matrix"
    assert config.optim.shape.flat == 0.2
    with pytest.raises(ConfigError, match=r"'checkerboard'.*'width'"):
        build_model("checkerboard", {"width": 3})
    with pytest.raises(ConfigError, match="unknown model 'chekerboard'"):
        build_model("chekerboard", {})
    with pytest.raises(ConfigError, match="is a setting of checkerboard, not of mbt2018-mean"):
        ModelConfig("mbt2018-mean", {"depth": 3})
    with pytest.raises(ConfigError, match="are not settings of 'mbt2018-mean'"):
        ModelConfig("mbt2018-mean", ModelConfig("checkerboard").settings)


def test_a_models_prior_is_chosen_with_its_own_settings(tmp_path):
    path = write_toml(
        tmp_path,
        "[model]\nn = 12\nprior = 'generalized-gaussian'\nbeta = 1.2\nscale_bound = 0.1",
    )
    config = load_recipe(path)
    assert config.model.settings.density.beta == 1.2
    assert config_from_dict(config_to_dict(config), source="here") == config
    model = build_model(config.model.name, write(config.model.settings))
    assert model.hyperparameters()["beta"] == 1.2
    for overrides, wanted in (
        (("model.beta=2.5",), {"prior": "generalized-gaussian", "beta": 2.5, "scale_bound": 0.1}),
        # Another prior takes out the former's settings, in whatever order, another model all.
        (("model.prior=laplace",), {"prior": "laplace"}),
        (
            ("model.scale_bound=0.05", "model.prior=laplace"),
            {"prior": "laplace", "scale_bound": 0.05},
        ),
        (("model.name=checkerboard",), {"prior": "gaussian"}),
        (("model.prior=laplace", "model.name=checkerboard"), {"prior": "laplace"}),
        (("model.name=bmshj2018-factorized",), {}),
    ):
        got = write(load_recipe(path, overrides).model.settings)
        keys = ("prior", "beta", "scale_bound")
        assert {key: got[key] for key in keys if key in got} == wanted
    with pytest.raises(ConfigError, match=r"model\.beta is a setting of generalized-gaussian, not"):
        load_recipe(path, ("model.prior=gaussian", "model.beta=2"))


def test_overrides_win_in_order_and_are_checked_like_the_file(tmp_path):
    path = write_toml(tmp_path, "[train]\nsteps = 3\nseed = 4")
    config = load_recipe(
        path,
        ("train.steps=5", "train.steps=6", "optim.name=soap", "optim.lr=1e-2", "model.n=9"),
    )
    assert (config.train.steps, config.train.seed) == (6, 4)
    assert (config.optim.name, config.optim.lr) == ("soap", 0.01)
    assert config.model.settings.n == 9
    for override, part in [
        ("train.steps", "must look like section.key=value"),
        ("steps=3", "must look like section.key=value"),
        ("train.stepps=3", "did you mean 'steps'"),
        ("trian.steps=3", "did you mean 'train'"),
        ("train.steps=many", "must be an integer"),
        ("train.stepps=", "did you mean 'steps'"),
        ("trian.steps=", "did you mean 'train'"),
        ("model.depth=", "unknown key 'depth'"),
        ("model.depth=2", "a setting of checkerboard"),
    ]:
        with pytest.raises(ConfigError, match=part):
            load_recipe(path, (override,))
    with pytest.raises(ConfigError, match="'train' is not a section"):
        load_recipe(write_toml(tmp_path, "train = 3"), ("train.steps=3",))


def test_an_override_without_a_value_gives_the_default_back(tmp_path):
    path = write_toml(
        tmp_path, '[train]\nsteps = 3\n[model]\nname = "checkerboard"\nn = 8\ndepth = 1'
    )
    config = load_recipe(path, ("train.steps=", "model.depth=", "train.seed="))
    assert config.train == RunConfig().train
    assert config.model == ModelConfig("checkerboard", {"n": 8})
    assert load_recipe(path, ("train.steps=5", "train.steps=")).train.steps == 100_000
    assert load_recipe(path, ("train.steps=", "train.steps=5")).train.steps == 5


@pytest.mark.parametrize("order", [1, -1])
def test_a_switch_of_the_model_takes_the_defaults_of_the_other_one(tmp_path, order):
    path = write_toml(tmp_path, '[model]\nname = "checkerboard"\nn = 8\nm = 8\ndepth = 1')
    overrides = ("model.name=mbt2018-mean", "model.n=12", "model.depth=")[::order]
    config = load_recipe(path, overrides)
    assert config.model == ModelConfig("mbt2018-mean", {"n": 12})
    same = load_recipe(path, ("model.name=checkerboard",))
    assert same.model == ModelConfig("checkerboard", {"n": 8, "m": 8, "depth": 1})


def test_a_switch_of_the_optimizer_or_schedule_drops_what_the_new_one_lacks(tmp_path):
    text = "[optim]\nname = 'soap'\nlr = 3e-3\nbeta2 = 0.5\nshapes = 'matrix'\nflat = 0.3"
    path = write_toml(tmp_path, text)
    config = load_recipe(path, ("optim.beta1=0.8", "optim.name=adam", "optim.schedule=cosine"))
    # beta2 is a setting of both; shapes and flat are not.
    settings = {"beta1": 0.8, "beta2": 0.5}
    expected = OptimConfig("adam", lr=3e-3, schedule="cosine", settings=settings)
    assert config.optim == expected
    assert load_recipe(path, ("optim.name=soap",)) == load_recipe(path)
    with pytest.raises(ConfigError, match="phases are changed in the recipe itself"):
        load_recipe(path, ("phase.share=1",))


@st.composite
def any_tree(draw) -> dict:
    rate = st.floats(1e-9, 1e9)
    model = draw(st.sampled_from(list(MODELS)))
    optimizer = draw(st.sampled_from(list(OPTIMIZERS)))
    sizes = {key: draw(st.integers(1, 200)) for key in MODELS[model].tiny}
    parts = draw(st.lists(st.integers(1, 5), max_size=3))
    tree = {
        "model": {"name": model, **sizes},
        "loss": {"lmbda": draw(rate | st.integers(1, 9))},
        "surrogate": {"name": draw(st.sampled_from(list(SURROGATES)))},
        "optim": {"name": optimizer, "lr": draw(rate), "warmup": draw(st.floats(0, 0.99))}
        | {"schedule": draw(st.sampled_from(list(SCHEDULES))), "final": draw(st.just(1))}
        | ({"factor_beta": draw(st.floats(0, 0.9))} if optimizer == "soap" else {}),
        "data": {"crop_size": 64 * draw(st.integers(1, 9)), "min_scale": draw(st.floats(0.1, 1))},
        "train": {
            "seed": draw(st.integers(0, 2**63 - 1)),
            "precision": draw(st.sampled_from(["float32", "bfloat16"])),
        },
        "phase": [
            {"share": part / sum(parts), "freeze": draw(st.lists(st.text(max_size=3), max_size=2))}
            | draw(st.sampled_from([{}, {"lr": 1e-3}, {"surrogate": "noise"}]))
            for part in parts
        ],
    }
    return tree


@pytest.mark.slow
@settings(max_examples=60)
@given(any_tree())
def test_a_tree_comes_back_from_plain_values_and_its_types_are_exact(tree):
    config = config_from_dict(tree, source="drawn")
    written = config_to_dict(config)
    read = config_from_dict(json.loads(json.dumps(written)), source="json")
    assert read == config
    assert config_to_dict(read) == written
    assert type(config.loss.lmbda) is type(config.optim.final) is float


def test_what_an_earlier_release_wrote_is_read_leniently():
    # Its trees held the settings of every optimizer.
    tree = {"optim": {"name": "adam", "lr": 2e-3, "factor_beta": 0.9, "shapes": "split"}}
    config = config_from_dict(tree, source="old", lenient=True)
    assert config.optim == OptimConfig("adam", lr=2e-3)
    with pytest.raises(ConfigError, match="a setting of soap"):
        config_from_dict(tree, source="old")


# -------------------------------------------------------------------------------------- phases


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 60))
def test_every_step_has_a_phase_in_order_and_shares_are_kept(parts, steps):
    phases = [Phase(share=part / sum(parts), lr=1.0 + i) for i, part in enumerate(parts)]
    numbers = [phases.index(phase_at(phases, (step + 1) / steps)) for step in range(steps)]
    assert numbers == sorted(numbers)
    for i, part in enumerate(parts):
        assert abs(numbers.count(i) - steps * part / sum(parts)) <= 1


def test_without_phases_there_is_none():
    assert phase_at([], 0.5) is None
    check_shares([])
