"""What the tests of conflict analysis share: rows as the probe records them, run folders."""

import json
from pathlib import Path

import numpy as np

SCORES = ("intra_raw", "intra_pre", "intra_h", "inter_raw", "inter_pre", "inter_upd")
LAGGED = ("inter_raw_lag", "inter_pre_lag")


def row(step: int, *, lag: bool = False, layers: int = 2, **changes) -> dict:
    """A row with random scores; `changes` are scores of their own."""
    rng = np.random.default_rng(step)
    keys = (*SCORES, *LAGGED) if lag else SCORES

    def scores() -> dict:
        return {key: round(float(rng.uniform(-1, 1)), 6) for key in keys}

    names = [f"g_a.{i // 2}.{'bias' if i % 2 else 'weight'}" for i in range(layers)]
    head = {"kind": "conflict", "step": step, "bpp": 0.5, "mse": 0.01}
    norms = {"rate_norm": 1.0, "distortion_norm": 2.0}
    return head | norms | scores() | changes | {"layers": {name: scores() for name in names}}


def write_run(folder: Path, rows: list[dict], **changes: dict) -> Path:
    """A run folder with these rows; `changes` are keys of its recipe, by section."""
    config: dict[str, dict] = {
        "model": {"name": "checkerboard", "n": 32},
        "loss": {"lmbda": 0.0067},
        "optim": {"name": "adam", "lr": 1e-3, "beta1": 0.9},
        "data": {"crop_size": 128},
        "train": {"seed": 0, "batch_size": 8, "conflict_lag": 0},
    }
    for section, keys in changes.items():
        config[section] |= keys
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "conflict.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder
