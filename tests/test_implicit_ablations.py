import importlib.util
import sys
from pathlib import Path

import pytest

from lictor.training.recipe import config_to_dict, load_recipe

_PATH = Path(__file__).parents[1] / "benchmarks" / "implicit_ablations.py"
_SPEC = importlib.util.spec_from_file_location("implicit_ablations", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
ablations = importlib.util.module_from_spec(_SPEC)
sys.modules["implicit_ablations"] = ablations
_SPEC.loader.exec_module(ablations)

ARMS = [(group, arm) for group, line in ablations.TRAINED.items() for arm in line.arms]


def _settings(group, arm):
    chosen = ablations.chosen_overrides(group, arm, seed=3)
    tree = config_to_dict(load_recipe(ablations.RECIPE, chosen))
    return {
        (s, k): v for s, keys in tree.items() if isinstance(keys, dict) for k, v in keys.items()
    }


@pytest.mark.parametrize(("group", "arm"), ARMS)
def test_an_arm_changes_what_it_says_and_settings_of_the_choices_it_makes(group, arm):
    first = _settings(group, next(iter(ablations.TRAINED[group].arms)))
    own = _settings(group, arm)
    said = {tuple(text.partition("=")[0].split(".")) for text in ablations.TRAINED[group].arms[arm]}
    changed = {key for key in first.keys() | own.keys() if first.get(key) != own.get(key)}
    # Who names another network says all its settings anew, also those that stay.
    anew = {key for key in said if key[0] == "model"} if ("model", "name") in said else set()
    assert said - anew <= changed
    # Another network or optimizer has other settings; those that both have stay.
    assert all(key in said or key not in first or key not in own for key in changed)


def test_arms_of_a_group_are_all_different():
    for group, line in ablations.TRAINED.items():
        found = [str(sorted(_settings(group, arm).items(), key=str)) for arm in line.arms]
        assert len(set(found)) == len(found)


def test_only_points_that_gain_something_are_kept():
    points = [
        {"bits": 3, "psnr": 2.0},
        {"bits": 1, "psnr": 1.0},
        {"bits": 2, "psnr": 2.5},
        {"bits": 4, "psnr": 2.6},
    ]
    assert [p["bits"] for p in ablations.rising(points)] == [1, 2, 4]


def test_twice_the_bits_at_every_quality_are_a_hundred_percent():
    anchor = {"points": [{"bits": b, "psnr": p} for b, p in ((10, 20.0), (20, 24.0), (40, 27.0))]}
    test = {"points": [{**p, "bits": 2 * p["bits"]} for p in anchor["points"]]}
    assert ablations.against(anchor, test) == pytest.approx(100)
