"""Train learned image codecs fast; turn them into files that decode exactly.

    import lictor
    codec = lictor.Codec.default()
    data = codec.encode(image)      # uint8 array, h w c
    image = codec.decode(data)

Importing this package imports nothing heavy; torch comes with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lictor.codecs.learned import Codec
    from lictor.codecs.pictures import decode_picture, encode_picture
    from lictor.codecs.protocol import ImageCodec
    from lictor.data.images import load_image
    from lictor.data.pictures import Picture, open_picture
    from lictor.errors import BitstreamError, LictorError
    from lictor.models.zoo import MODELS, build_model
    from lictor.training.recipe import RunConfig, load_recipe
    from lictor.training.run import load_run, run

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "BitstreamError",
    "Codec",
    "ImageCodec",
    "LictorError",
    "Picture",
    "RunConfig",
    "build_model",
    "decode_picture",
    "encode_picture",
    "load_image",
    "load_recipe",
    "load_run",
    "open_picture",
    "run",
]

_HOMES = {
    "MODELS": "models.zoo",
    "BitstreamError": "errors",
    "Codec": "codecs.learned",
    "ImageCodec": "codecs.protocol",
    "LictorError": "errors",
    "Picture": "data.pictures",
    "RunConfig": "training.recipe",
    "build_model": "models.zoo",
    "decode_picture": "codecs.pictures",
    "encode_picture": "codecs.pictures",
    "load_image": "data.images",
    "load_recipe": "training.recipe",
    "load_run": "training.run",
    "open_picture": "data.pictures",
    "run": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lictor' has no attribute {name!r}")
    value = getattr(import_module(f"lictor.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
