"""README and docs are executed: their blocks run, their tables and links hold.

    python tests/test_docs.py      rewrite the tables of docs/recipes.md from the settings

Kinds of block: ```python runs, a page's blocks in order in one namespace; ```console runs its lines
`$ lictor ...` and compares what they print with what is shown (`...` stands for anything, a block
without output for silence about it); ```toml title="FILE" writes the file; ```text is not run, and
```bash holds only what installs or runs everything.
"""

import ast
import configparser
import dataclasses
import doctest
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import typing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from lictor import config as mechanism
from lictor.cli.main import main
from lictor.coding import container, container_v1, stream
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.training import recipe
from lictor.training.phases import Phase
from lictor.training.schedule import SCHEDULES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = ROOT / "docs" / "recipes.md"
# Pages whose blocks train, evaluate or simulate for more than a few seconds.
LONG = {"README", "comparing", "conflict", "how-to-train-fast", "noisy-quadratic-model"}
LONG |= {"quantization", "tutorial"}
NOT_RUN = re.compile(r"make (demo|check|test)\b|pip install \.$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title, text, and the line of the page it begins at."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    pattern = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.M | re.S)
    text = page.read_text(encoding="utf-8")
    return [
        Block(m[1], m[2] or "", m[3], text[: m.start()].count("\n") + 2)
        for m in pattern.finditer(text)
    ]


@pytest.fixture
def folder_of_page(tmp_path, monkeypatch) -> Path:
    """A folder with what the pages presume: a picture, some photographs, the recipes."""
    monkeypatch.chdir(tmp_path)
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    (tmp_path / "photos").mkdir()
    with Image.open(data / "astronaut.png") as image:
        image.crop((100, 0, 356, 192)).save("photo.png")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png")
    for letter, name in zip("abcde", names, strict=True):
        with Image.open(data / name) as image:
            image.crop((120, 90, 280, 250)).save(f"photos/{letter}.png")
    shutil.copytree(ROOT / "recipes", "recipes")
    before = dict(MODELS)
    yield tmp_path
    MODELS.clear()
    MODELS.update(before)


def run_command(line: str, shown: str, capsys) -> None:
    """Run `lictor ...` in this process; an output that begins with the error prefix must fail."""
    program, *args = shlex.split(line)
    assert program == "lictor", f"only lictor runs in a console block, not {line!r}"
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(args)
    captured = capsys.readouterr()
    fails = shown.startswith("lictor: error:")
    assert exit_.value.code == (1 if fails else 0), f"{line}\n{captured.err}"
    if shown:
        got = captured.err if fails else captured.out
        same = doctest.OutputChecker().check_output(
            shown, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        assert same, f"{line}\nshown:\n{shown}\nprinted:\n{got}"


def run_console(block: Block, capsys) -> None:
    command, shown = "", ""
    for line in [*block.text.splitlines(keepends=True), "$ "]:
        if not line.startswith("$ "):
            shown += line
            continue
        if command:
            run_command(command, shown, capsys)
        command, shown = line[2:].strip(), ""


def _page(page: Path):
    marks = [pytest.mark.slow] if page.stem in LONG else []
    return pytest.param(page, marks=marks, id=page.stem)


@pytest.mark.parametrize("page", [_page(page) for page in PAGES])
def test_blocks_run_in_order(page, folder_of_page, capsys):
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)
        elif block.language == "console":
            run_console(block, capsys)
        elif block.language == "toml":
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            assert all(NOT_RUN.match(line) for line in block.text.splitlines()), block.text
        else:
            assert block.language == "text", f"{page.name}:{block.line}: {block.language}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_fence_is_a_known_block(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*```", text, re.M)) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_internal_links_resolve(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["readme_table.py", "compare_effects.py", "surrogates_table.py"])
def test_generated_tables_are_what_the_results_say(name):
    script = ROOT / "benchmarks" / name
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_format_page_has_the_layouts_of_the_docstrings():
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    for module, first, last in (
        (container, "offset  bytes   field", "rejects the file"),
        (container_v1, "offset  bytes  field", "one after the other"),
        (stream, "varint   lanes", "escapes[num_escape_bytes]"),
    ):
        doc = inspect.getdoc(module)
        assert doc is not None
        begin = doc.rindex("\n", 0, doc.index(first)) + 1
        layout = textwrap.dedent(doc[begin : doc.index(last) + len(last)])
        assert layout in page, f"docs/format.md must show, as {module.__name__} does:\n{layout}"


def test_the_maps_name_the_layers_of_the_contract_in_order():
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:layers"]["layers"].replace("lictor.", "").split("\n")
    wanted = [sorted(layer.split(" | ")) for layer in layers if layer]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert [sorted(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows] == wanted
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (name for layer in wanted for name in layer):
        assert f"`{name}`" in readme


def _field_docs(cls: type) -> dict[str, str]:
    """Read the string below each field of a dataclass, those of its base first."""
    docs = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body[:-1], body.body[1:], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                assert isinstance(field.target, ast.Name)
                assert isinstance(doc.value, ast.Constant)
                docs[field.target.id] = " ".join(str(doc.value.value).split())
    return docs


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value == ():
        return "none"
    return f"`{value!r}`" if not isinstance(value, str) else f'`"{value}"`'


def _kind(field: dataclasses.Field) -> str:
    if typing.get_origin(field.type) is tuple:
        return "list of " + typing.get_args(field.type)[0].__name__
    kinds = [k for k in typing.get_args(field.type) if k is not type(None)] or [field.type]
    return kinds[0].__name__


def _rows(cls: type) -> list[str]:
    """Return a line for each setting of a dataclass: key, type, default, allowed, meaning."""
    docs, choices = _field_docs(cls), mechanism._choices(cls)
    tables = {by: ", ".join(f"`{n}`" for n in table) for _, table, by, _ in choices}
    return [
        f"| `{f.name}` | {_kind(f)} | {_default(f)} | "
        f"{tables.get(f.name) or (f.metadata.get('rule') or mechanism.Rule(bool, 'any')).words} | "
        f"{docs[f.name]} |"
        for f in dataclasses.fields(cls)
        if "table" not in f.metadata
    ]


def _choice_tables(cls: type, head: str) -> list[str]:
    """Return a table for each kind of settings that a dataclass chooses, then those of theirs."""
    tables, inner = [], []
    for _, choices, by, kind in mechanism._choices(cls):
        for own in dict.fromkeys(line.settings for line in choices.values()):
            owners = ", ".join(f"`{n}`" for n, line in choices.items() if line.settings is own)
            if dataclasses.fields(own):
                title = f"With `{by}` = {owners}, settings of the {kind}:\n"
                tables.append("\n".join([title, head, *_rows(own), ""]))
            inner += _choice_tables(own, head)
    return [*tables, *dict.fromkeys(inner)]


HEAD = "| key | type | default | allowed | meaning |\n|---|---|---|---|---|"


def _section_tables(sections: dict[str, type], level: str, of: str = "") -> list[str]:
    parts = []
    for name, cls in sections.items():
        parts += [f"{level} [{name}]{of}\n\n{inspect.getdoc(cls)}\n", HEAD, *_rows(cls), ""]
        parts += _choice_tables(cls, HEAD)
    return parts


def signal_tables() -> str:
    """Return, likewise, the keys of the sections that only recipes of signals have."""
    own = {n: c for n, c in recipe.SIGNAL_SECTIONS.items() if recipe.SECTIONS.get(n) is not c}
    return "\n".join(_section_tables(own, "##", " of signals"))


def key_tables() -> str:
    """Return every key of a recipe as Markdown: type, default, range, meaning."""
    parts, head = _section_tables(recipe.SECTIONS, "##"), HEAD
    parts += [f"## [[phase]]\n\n{inspect.getdoc(Phase)}\n", head, *_rows(Phase), ""]
    return "\n".join(parts)


def change_list() -> str:
    """Return what a resumed run may change, as Markdown."""
    keys = set()
    for table, names in (("optim", OPTIMIZERS), ("schedule", SCHEDULES)):
        for name in names:
            optim = {"name": name} if table == "optim" else {"schedule": name}
            section = recipe.OptimConfig(**optim)
            keys |= recipe.may_change(recipe.RunConfig(optim=section))
            keys |= recipe.may_change(recipe.SignalRunConfig(optim=section))
    return ", ".join(f"`{key}`" for key in sorted(keys)) + "."


def recipes_page(page: str) -> str:
    """Return the page with its generated parts as they must be."""
    parts = (("keys", key_tables()), ("signals", signal_tables()), ("changes", change_list()))
    for name, text in parts:
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def test_the_recipes_page_has_every_key():
    page = RECIPES.read_text(encoding="utf-8")
    assert {"signal", "fit", "rate"} <= set(re.findall(r"^## \[(\w+)\] of signals$", page, re.M))
    assert page == recipes_page(page), "stale: run python tests/test_docs.py"


if __name__ == "__main__":
    RECIPES.write_text(recipes_page(RECIPES.read_text(encoding="utf-8")), encoding="utf-8")
