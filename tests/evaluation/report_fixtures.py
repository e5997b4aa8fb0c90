"""Results with kept pictures, made in a second: Pillow's formats on small synthetic photographs."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from conftest import photo
from lictor.evaluation.curve import Curve, curve_from_rows, curve_to_json
from lictor.evaluation.pictures import original_path, picture_path
from lictor.evaluation.rd import evaluate_image

EVIL = "</script><script>alert(1)</script>"
SIZES = {"one.png": (170, 240), "two.png": (176, 200), "three.png": (180, 190)}
SPEED = {
    "encode_s": 0.04,
    "decode_s": 0.01,
    "encode_s_per_megapixel": 0.4,
    "decode_s_per_megapixel": 0.1,
    "decode_entropy_share": 0.25,
    "peak_rss_decode_bytes": 300_000_000,
    "parameters": 5_047_920,
    "kmac_per_pixel": {"g_a": 8.25, "g_s": 9.0},
    "kmac_per_pixel_decode": 17.25,
}


@dataclasses.dataclass(frozen=True)
class Squeeze:
    """A codec of these tests."""

    format: str
    quality: int

    @property
    def name(self) -> str:
        return self.format

    def encode(self, image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, self.format, quality=self.quality)
        return buffer.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write_results(
    folder: Path,
    name: str = "JPEG",
    format_: str = "JPEG",
    qualities: tuple[int, ...] = (10, 30, 55, 80),
    *,
    keep: int = 2,
    **about,
) -> Curve:
    """Evaluate a format on the photographs of `SIZES`, as `lictor evaluate` lays it out."""
    rows = []
    for number, (image_name, size) in enumerate(SIZES.items()):
        image = photo(*size, seed=number)
        for quality in qualities:
            setting = f"q{quality}"
            row, decoded = evaluate_image(
                Squeeze(format_, quality), image, image_name, setting=setting
            )
            rows.append(dataclasses.replace(row, encode_s=0.02, decode_s=0.01))
            if number < keep:
                save(image, original_path(folder, image_name))
                save(decoded, picture_path(folder, name, setting, image_name))
    about = {
        "dataset": "synthetic",
        "provenance": {"command": "lictor evaluate", "jobs": 1},
    } | about
    curve = curve_from_rows(name, rows, **about)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(curve_to_json(curve), allow_nan=False)
    (folder / f"{len(list(folder.glob('*.json')))}.json").write_text(text)
    return curve


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
