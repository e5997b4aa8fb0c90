"""The published curves that ship with lictor: made from a folder of JSON files, never typed.

    python benchmarks/import_anchors.py FOLDER            write src/lictor/assets/anchors.json
    python benchmarks/import_anchors.py FOLDER --check    exit 1 if it is not what FOLDER says

A file of FOLDER holds one curve as it was read from a public repository: `bpp`, `psnr` and further
columns, and `source` with repository, path and commit. `NAMES` gives each the name it has here: a
short one where a file is the best-known source of a codec, one with a prefix otherwise (`tfc-` for
TensorFlow Compression's, `deepmind-` for the baselines of C3, `paper-` for what CompressAI copied
from papers). A file without a name, or a name without a file, is an error.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from lictor.comparison.curve import MEAN_PSNR, curve_from_json

ASSET = Path(__file__).resolve().parents[1] / "src" / "lictor" / "assets" / "anchors.json"
FORMAT = "lictor-anchors-1"

_COMPRESSAI = (
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
)
_NO_8BIT_MS_SSIM = {"cheng2020-anchor", "cheng2020-attn"}
_COOL_CHIC = ("1.0", "2.0", "3.0", "3.1", "3.2", "3.3", "3.4", "4.0", "4.1", "4.2", "5.0")


_PAPERS = (
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "cheng2020-checkerboard-1m_mse",
    "cheng2020-checkerboard-6m_ms-ssim",
    "cheng2020-checkerboard-6m_mse",
    "cheng2020-parallel_ms-ssim",
    "cheng2020-parallel_mse",
    "elic2022_ms-ssim",
    "elic2022_mse",
    "mbt2018",
    "mbt2018-mean",
    "minnen2018-checkerboard_ms-ssim",
    "minnen2018-checkerboard_mse",
    "minnen2018-parallel_ms-ssim",
    "minnen2018-parallel_mse",
    "minnen2020-cc10_mse",
)


def _compressai_names() -> dict[str, str]:
    names = {}
    for model in _COMPRESSAI:
        stem = f"compressai__{model}"
        names[f"{stem}_mse_cuda"] = model
        names[f"{stem}_mse_cpu"] = f"{model}-cpu"
        names[f"{stem}_mse_ans_cuda_8bit"] = f"{model}-8bit"
        names[f"{stem}_ms-ssim_cuda"] = f"{model}-ms-ssim"
        names[f"{stem}_ms-ssim_cpu"] = f"{model}-ms-ssim-cpu"
        if model not in _NO_8BIT_MS_SSIM:
            names[f"{stem}_ms-ssim_ans_cuda_8bit"] = f"{model}-ms-ssim-8bit"
    for model in ("bmshj2018-hyperprior", "mbt2018-mean", "mbt2018"):
        names[f"compressai__{model}-vbr-ans"] = f"{model}-vbr"
    for stem in _PAPERS:
        model = stem.removesuffix("_mse").replace("_ms-ssim", "-ms-ssim")
        model = {"minnen2020-cc10": "minnen2020"}.get(model, model)
        names[f"compressai__paper-{stem}"] = f"paper-{model}"
    return names


NAMES = {
    **_compressai_names(),
    **{f"coolchic__v{version}": f"cool-chic-{version}" for version in _COOL_CHIC},
    "c3baselines__bms": "deepmind-bmshj2018-hyperprior",
    "c3baselines__bpg": "deepmind-bpg",
    "c3baselines__bpg420": "deepmind-bpg-420",
    "c3baselines__bpg444": "deepmind-bpg-444",
    "c3baselines__c3": "c3",
    "c3baselines__c3_adaptive": "c3-adaptive",
    "c3baselines__coin": "coin",
    "c3baselines__coin++": "coin++",
    "c3baselines__cool-chic": "deepmind-cool-chic",
    "c3baselines__cool-chicv2": "deepmind-cool-chic-2",
    "c3baselines__cst": "deepmind-cheng2020-anchor",
    "c3baselines__elic": "deepmind-elic",
    "c3baselines__evc-l": "evc-large",
    "c3baselines__evc-m": "evc-medium",
    "c3baselines__evc-s": "evc-small",
    "c3baselines__jpeg": "deepmind-jpeg",
    "c3baselines__jpeg2000": "deepmind-jpeg2000",
    "c3baselines__mbt": "deepmind-mbt2018",
    "c3baselines__mlic": "deepmind-mlic",
    "c3baselines__mlic+": "deepmind-mlic+",
    "c3baselines__mscn": "mscn",
    "c3baselines__recombiner": "recombiner",
    "c3baselines__spy": "spy",
    "c3baselines__stf": "stf",
    "c3baselines__vc-inr": "vc-inr",
    "c3baselines__vtm": "deepmind-vtm",
    "c3baselines__wyh": "neural-syntax",
    "compressai__av1": "av1",
    "compressai__bpg_444_x265_ycbcr": "bpg-444",
    "compressai__hm": "hm",
    "compressai__jpeg": "jpeg",
    "compressai__jpeg2000": "jpeg2000",
    "compressai__vtm": "vtm-9.1",
    "compressai__webp": "webp",
    "dcae": "dcae",
    "elic_official": "elic",
    "elic_sm_official": "elic-sm",
    "hpcm__base": "hpcm-base",
    "hpcm__large": "hpcm-large",
    "lalic": "lalic",
    "lossyvae__qarv_base": "qarv",
    "lossyvae__qres34m": "qres34m",
    "lossyvae__vtm18.0": "vtm-18.0",
    "mlic": "mlic",
    "mlicplus": "mlic+",
    "mlicplusplus": "mlic++",
    "tcm__large": "tcm-large",
    "tcm__middle": "tcm-middle",
    "tcm__small": "tcm-small",
    "tfc__balle-2017-iclr": "tfc-balle2017",
    "tfc__balle-2017-iclr-opt-mse": "tfc-balle2017-mse",
    "tfc__balle-2017-iclr-opt-msssim": "tfc-balle2017-ms-ssim",
    "tfc__balle-2018-iclr": "tfc-balle2018",
    "tfc__balle-2018-iclr-opt-mse": "tfc-balle2018-mse",
    "tfc__balle-2018-iclr-opt-msssim": "tfc-balle2018-ms-ssim",
    "tfc__bpg420": "bpg-420",
    "tfc__bpg444": "tfc-bpg-444",
    "tfc__j2k-kdu5": "tfc-jpeg2000-kakadu",
    "tfc__j2k-opj5": "tfc-jpeg2000-openjpeg",
    "tfc__johnston-2017-cvpr": "tfc-johnston2017",
    "tfc__jpeg420": "tfc-jpeg-420",
    "tfc__lee-2019-context-adaptive": "tfc-lee2019-context-adaptive",
    "tfc__lee2019-iclr": "tfc-lee2019",
    "tfc__minnen-2017-icip": "tfc-minnen2017",
    "tfc__minnen-2018-icip": "tfc-minnen2018-icip",
    "tfc__minnen-2018-neurips-no-context": "tfc-minnen2018-no-context",
    "tfc__minnen-2018-neurips-opt-mse": "tfc-minnen2018",
    "tfc__minnen-2018-neurips-opt-msssim": "tfc-minnen2018-ms-ssim",
    "tfc__minnen-2020-icip": "minnen2020",
    "tfc__theis-2017-iclr": "tfc-theis2017",
    "tfc__toderici-2017-cvpr": "tfc-toderici2017",
    "tfc__webp": "tfc-webp",
}

# MS-SSIM in dB, which these files' sources have at the same path, but the folder does not.
MS_SSIM_DB = {
    "paper-cheng2020-checkerboard-6m-ms-ssim": [7.059, 10.675, 14.818, 17.617, 20.572, 23.797],
    "paper-cheng2020-parallel-ms-ssim": [10.575, 12.282, 14.668, 16.438, 18.437, 19.503],
    "paper-elic2022-ms-ssim": [11.593, 13.258, 15.456, 17.272, 19.059, 20.116],
    "paper-minnen2018-checkerboard-ms-ssim": [6.468, 9.211, 14.255, 17.055, 20.171, 23.561],
    "paper-minnen2018-parallel-ms-ssim": [10.665, 12.289, 14.494, 16.359, 18.301, 19.429],
}
REMARKS = {
    "paper-bmshj2018-factorized": "the points are those of tfc-balle2017",
    "vtm-9.1": "the source does not say the version; against these points LALIC has the BD-rate "
    "that its authors report against VTM 9.1",
    **{
        f"{model}-ms-ssim-8bit": f"the source has the numbers of {model}-8bit in this file"
        for model in _COMPRESSAI
        if model not in _NO_8BIT_MS_SSIM
    },
}
COLUMNS = {
    "bpp": "bpp",
    "psnr": "psnr",
    "psnr_of_mean_mse": "psnr-of-mean-mse",
    "ms_ssim": "ms-ssim",
    "enc_s": "encoding_time",
    "dec_s": "decoding_time",
}


def read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every curve of the folder by its name, sorted, checked by reading it as a curve."""
    files = {path.stem: path for path in folder.glob("*.json") if path.stem != "INDEX"}
    unnamed, absent = sorted(files.keys() - NAMES.keys()), sorted(NAMES.keys() - files.keys())
    if unnamed or absent or len(set(NAMES.values())) < len(NAMES):
        sys.exit(
            f"files without a name: {unnamed}; names without a file: {absent}; or a name twice"
        )
    curves = {}
    for name, stem in sorted((name, stem) for stem, name in NAMES.items()):
        curves[name] = convert(name, json.loads(files[stem].read_text(encoding="utf-8")))
        curve_from_json(curves[name])
    return curves


def convert(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content in the layout of a results file; what it does not say is left out."""
    results = {ours: content[theirs] for theirs, ours in COLUMNS.items() if theirs in content}
    if "lambdas" in content:
        results = {"setting": [f"lambda={v:g}" for v in content["lambdas"]], **results}
    if name in MS_SSIM_DB:
        results["ms-ssim-db"] = MS_SSIM_DB[name]
    source, meta = content["source"], content["source"].get("meta") or {}
    text, label, about = content.get("aggregation", ""), content["name"], content.get("description")
    # The sentence on whom to ask, and what stands cut off behind it, is no fact about the curve.
    note = re.split(r"\s*If you have questions", content.get("note", ""))[0].strip()
    provenance = {
        "label": label,
        "about": about if about != label else "",
        "optimised_for": content.get("optimised_for"),
        "repo": source["repo"],
        "path": source["path"],
        "commit": source["commit"],
        "origin": meta.get("source"),
        "reference": source.get("paper") or meta.get("reference") or meta.get("url"),
        "aggregation": text,
        "note": "; ".join(filter(None, [note, REMARKS.get(name)])),
    }
    averaged = MEAN_PSNR if text.startswith("mean of per-image PSNR") else ""
    return {
        "dataset": content["dataset"],
        **({"aggregation": averaged} if averaged else {}),
        "provenance": {key: value for key, value in provenance.items() if value},
        "results": results,
    }


def to_text(curves: dict[str, dict[str, Any]]) -> str:
    """Return the asset: one curve a line, so that a change shows as a line."""
    lines = [
        f"{json.dumps(name)}:{json.dumps(curve, ensure_ascii=False, separators=(',', ':'))}"
        for name, curve in curves.items()
    ]
    return f'{{"format":"{FORMAT}","curves":{{\n' + ",\n".join(lines) + "\n}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = to_text(read_folder(arguments.folder))
    if arguments.check:
        same = ASSET.read_text(encoding="utf-8") == text
        sys.exit(None if same else f"{ASSET}: is not what {arguments.folder} says")
    ASSET.write_text(text, encoding="utf-8")
    print(f"{ASSET}: {len(NAMES)} curves, {len(text)} bytes")


if __name__ == "__main__":
    main()
