"""Packages that only some formats need: found when they are used, missed in one line."""

import importlib
from typing import Any

from lictor.errors import ConfigError


def needed(module: str, extra: str) -> Any:
    """Import a module of an extra; raises `ConfigError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"needs the package {module.partition('.')[0]}, which is not installed: "
            f"pip install 'lictor[{extra}]'"
        ) from error
