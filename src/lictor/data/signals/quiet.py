"""Packages that read files: found when they are used, missed in one line, and kept quiet."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lictor.errors import ConfigError

# Their loggers, which print where nobody has set logging up.
_LOUD = ("cfgrib", "nibabel", "xarray", "zarr")


def needed(module: str, extra: str) -> Any:
    """Import a module of an extra; raises `ConfigError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"needs the package {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'lictor[{extra}]'"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of packages that read and write files to themselves."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
