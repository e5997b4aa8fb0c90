"""What CompressAI needs to be imported where there is no torchvision: it only lists transforms."""

from __future__ import annotations

import sys
import types
from typing import Any


def ensure_torchvision() -> None:
    """Put an empty torchvision into place, if there is none."""
    try:
        import torchvision.transforms  # noqa: F401  # pyright: ignore
    except ImportError:
        parent: Any = types.ModuleType("torchvision")
        parent.transforms = types.ModuleType("torchvision.transforms")
        sys.modules |= {"torchvision": parent, "torchvision.transforms": parent.transforms}
