"""What all tests share: checked signatures, fixed seeds, tiny models, synthetic pictures."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

# An int is welcome where a float is, as in every type checker (PEP 484).
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_compare_shapes = jaxtyping.jaxtyped


def _checked(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Stand in for `jaxtyping.jaxtyped`: compare shapes only where a signature speaks of some.

    That takes several times as long as a check of types, which is enough for all other functions.
    """

    def decorate(fn: Any) -> Any:
        hints = fn.__annotations__.values() if isinstance(fn, FunctionType) else [""]
        parts = [part for hint in hints for part in _parts(hint)]
        # jaxtyping knows what to do with names that mean nothing yet, and with what is no function.
        if any(isinstance(part, (str, ForwardRef)) for part in parts):
            return _compare_shapes(fn, typechecker=typechecker)
        checked = typechecker(fn)
        shaped = any(isinstance(p, type) and issubclass(p, jaxtyping.AbstractArray) for p in parts)
        return _compare_shapes(checked, typechecker=None) if shaped else checked

    return decorate


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    if isinstance(hint, list):  # the arguments of a callable
        inner = hint
    else:
        inner = () if get_origin(hint) is Literal else get_args(hint)
    for part in inner:
        yield from _parts(part)


jaxtyping.jaxtyped = _checked

# Every module but `coding`, whose loops numba compiles: it cannot see through a checking wrapper.
_SOURCE = Path(__file__).parents[1] / "src" / "lictor"
_CHECKED = sorted(
    f"lictor.{path.stem}"
    for path in _SOURCE.iterdir()
    if (path.suffix == ".py" or (path / "__init__.py").exists())
    and path.stem not in ("__init__", "coding")
)
jaxtyping.install_import_hook(_CHECKED, "conftest.check_types")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from lictor.data.folder import ImageFolder  # noqa: E402
from lictor.layers.checkerboard import CheckerboardConv  # noqa: E402
from lictor.layers.entropy_network import EntropyNetwork  # noqa: E402
from lictor.models.base import AbstractCodecModel  # noqa: E402
from lictor.models.zoo import MODELS  # noqa: E402

# The machines that run this are shared: a slow example is no finding. Examples are the same in
# every run, so that a red test is the change's doing; for others: --hypothesis-profile explore.
settings.register_profile("explore", deadline=None)
settings.register_profile("lictor", deadline=None, derandomize=True)
settings.load_profile("lictor")
# The models here are tiny: a second thread only waits (laws about threads set their own number).
torch.set_num_threads(1)


def combined(*tables: Iterable[Any]) -> list[Any]:
    """Return every combination of the tables' entries for `parametrize`; all but a few are slow.

    The few have every entry of each table at least once: a walk along all tables at a time, in
    which the shorter ones begin again.
    """
    entries = [list(table) for table in tables]
    steps = range(max(map(len, entries)))
    few = {tuple(step % len(table) for table in entries) for step in steps}
    return [
        pytest.param(
            *(table[place] for table, place in zip(entries, places, strict=True)),
            marks=[] if places in few else [pytest.mark.slow],
        )
        for places in itertools.product(*(range(len(table)) for table in entries))
    ]


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LICTOR_CACHE", str(tmp_path_factory.mktemp("cache")))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, an edge and some grain, uint8 `h w 3`: what a photograph has to a codec."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width, 2)
    phases = rng.uniform(0, 2 * np.pi, (3, 2))
    waves = [np.sin(5 * rows + a) + np.cos(4 * columns + b) for a, b in phases]
    edge = rows * np.cos(phases[0, 0]) + columns * np.sin(phases[0, 0]) > 0.2
    x = np.stack(waves, -1) * 45 + 120 + 40 * edge[..., None]
    return np.clip(x + rng.normal(0, 4, x.shape), 0, 255).astype(np.uint8)


def photo_tensor(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A batch of different `photo`s, float32 `b 3 h w` in [0, 1]."""
    images = np.stack([photo(height, width, seed + i) for i in range(batch)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def tiny_model(name: str, seed: int = 0, **options: Any) -> AbstractCodecModel:
    """A model of `MODELS` in its small form, from a fixed seed."""
    torch.manual_seed(seed)
    return MODELS[name](**MODELS[name].tiny, **options)


def lively_model(name: str, **options: Any) -> AbstractCodecModel:
    """A model with weights as random as at the start, but with symbols and scales of all sizes."""
    model = tiny_model(name, **options)
    with torch.no_grad():
        for part, gain in ((model.g_a, 20), (getattr(model, "h_a", None), 20)):
            convolutions = [m for m in part.modules() if isinstance(m, nn.Conv2d)] if part else []
            for convolution in convolutions[-1:]:
                convolution.weight.mul_(gain)
        for module in model.modules():
            if isinstance(module, EntropyNetwork):
                last = [m for m in module.modules() if isinstance(m, nn.Conv2d | CheckerboardConv)][
                    -1
                ]
                last.bias.uniform_(-0.5, 5)
                last.weight.mul_(5)
    return model


@pytest.fixture
def picture_folder(tmp_path) -> Path:
    """Twelve small PNG and JPEG pictures in a tree, some grey, sizes all different."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for i in range(12):
        image = Image.fromarray(photo(70 + 3 * i, 90 - 2 * i, seed=i))
        place = folder / "inner" if i % 3 == 0 else folder
        if i % 4 == 1:
            image.convert("L").save(place / f"grey{i}.png")
        elif i % 2:
            image.save(place / f"photo{i}.jpg", quality=90)
        else:
            image.save(place / f"photo{i}.png")
    return folder


@pytest.fixture
def folder() -> ImageFolder:
    """Four pictures in memory, as training takes them."""
    images: list[np.ndarray] = [photo(80, 90, seed) for seed in range(4)]
    return ImageFolder(tuple("abcd"), images.__getitem__)
