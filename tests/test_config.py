"""The mechanism of settings: what is read is what was meant, or an error that says why not."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from lictor.config import Choice, Settings, at_least, chosen, nearest, one_of, option, read, write
from lictor.errors import ConfigError


@dataclass(frozen=True)
class Groups(Settings):
    widths: tuple[int, ...] = option((1, 2))
    gain: float | None = option(None, at_least(0))


TABLE = {"plain": Choice(lambda: "plain"), "groups": Choice(lambda **kw: kw, Groups)}


@dataclass(frozen=True)
class Section(Settings):
    name: str = "plain"
    size: int = option(3, at_least(1))
    flag: bool = option(False)
    word: str = option("a", one_of("a", "b"), may_change=True)
    settings: object = chosen(TABLE, "thing")


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"size": 4, "flag": True},
        {"name": "groups", "widths": [16, 16, 32], "gain": 2},
        {"name": "groups", "word": "b"},
    ],
)
def test_write_gives_the_table_of_what_was_read(table):
    section = read(Section, table, "here", "section")
    assert read(Section, write(section), "here", "section") == section
    assert {**write(section), **table} == write(section)


def test_types_are_exact_and_an_integer_is_welcome_as_a_number():
    section = read(Section, {"name": "groups", "widths": [4], "gain": 2}, "here", "section")
    assert section.settings == Groups((4,), 2.0)
    assert type(section.settings.gain) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "groups", "widths": 3}, r"here: section\.widths = 3 must be a list"),
        ({"name": "groups", "widths": [1.5]}, r"section\.widths\[0\] = 1\.5 must be an integer"),
        ({"name": "groups", "gain": -1}, r"section\.gain = -1 must be at least 0"),
        ({"name": "groups", "gain": "x"}, r"section\.gain = 'x' must be a number"),
        ({"widths": [1]}, r"here: section\.widths is a setting of groups, not of plain"),
        (
            {"name": "grups"},
            r"here: unknown thing 'grups': did you mean 'groups'\? choose one of plain",
        ),
        ({"word": "c"}, r"section\.word = 'c' must be a or b"),
        ({"sise": 1}, r"unknown key 'sise' in \[section\]; did you mean 'size'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(table, message):
    with pytest.raises(ConfigError, match=message):
        read(Section, table, "here", "section")


def test_a_line_of_a_table_builds_from_keywords_after_what_it_is_given():
    assert TABLE["groups"](widths=[5]) == {"widths": (5,), "gain": None}
    assert TABLE["plain"]() == "plain"
    with pytest.raises(ConfigError, match="must be at least 0"):
        TABLE["groups"](gain=-1)
    with pytest.raises(ConfigError, match="'wdths'"):
        TABLE["groups"](wdths=[5])
    line = Choice(lambda first, widths, gain: (first, widths, gain), Groups)
    assert line("x", gain=1) == ("x", (1, 2), 1.0)


def test_rules_hold_for_what_is_made_in_python_too():
    for wrong, message in (
        (lambda: Section(size=0), "size = 0 must be at least 1"),
        (lambda: Section(word="z"), "word = 'z' must be a or b"),
        (lambda: Section("grups"), "unknown thing 'grups'"),
        (lambda: Section(settings=Groups()), "not settings of 'plain': give settings=None"),
        (lambda: Groups(gain=-2.0), r"gain = -2\.0 must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_nearest_names_one_close_word_or_all_words():
    assert nearest("warmpu", ["lr", "warmup"]) == "did you mean 'warmup'?"
    assert nearest("zzz", ["lr", "warmup"]) == "valid: lr, warmup"


def test_the_mechanism_does_not_import_torch():
    code = "import sys, lictor.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
