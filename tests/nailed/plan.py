"""The small plan whose numbers are nailed: one run of everything that training can do.

`python tests/nailed/plan.py` trains it and writes `record.json` anew, which is right only where
numbers were meant to change; the commit says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
RECORD = HERE / "record.json"

SMALL = {"recipe": "paper", "augment": "paper", "voxel_size": 0.2, "points": 256, "epochs": 2,
         "batch_size": 8, "lr": 3e-3, "train_limit": 18, "test_limit": 16}  # fmt: skip
POINTS = {"recipe": None, "points": 128, "epochs": 1, "train_limit": 6, "test_limit": 4,
          "batch_size": 4}  # fmt: skip
FEW = {"train_limit": None, "shots": 1, "episode": 0, "epochs": 1}
ROOMS = {"scenes": "s3dis", "model": "unet:efficientnet_lite0", "voxel_size": 0.4,
         "decoder_width": 0.125, "epochs": 2, "batch_size": 4, "lr": 5e-3, "train_limit": 5,
         "test_limit": 1}  # fmt: skip
STREETS = {"scenes": "semantic_kitti", "epochs": 2, "batch_size": 4, "lr": 5e-3, "train_limit": 6,
           "test_limit": 2}  # fmt: skip
BLOCKS = {"model": "pointnet2_ssg", "block_size": 2, "block_points": 128, "blocks": 2,
          "voxel_size": None, "decoder_width": None, "train_limit": 2}  # fmt: skip
RANGE = {"model": "range:efficientnet_lite0", "height": 32, "width": 128}
TEACHER = SMALL | {"weights": "random", "epochs": 1} | {"train_limit": None, "shots": 1,
                                                         "episode": 1}  # fmt: skip
STUDENT = {"weights": "random", "epochs": 1, "teacher": TEACHER}

PLAN: dict[str, dict] = {
    "scratch, probed": SMALL | {"weights": "random", "probe_epochs": (0, 1, 2)},
    "io": SMALL | {"regime": "io", "probe_epochs": (2,)},
    "io+ms": SMALL | {"regime": "io+ms"},
    "io+bn": SMALL | {"regime": "io+bn"},
    "all, seed 1": SMALL | {"seed": 1},
    "random frozen backbone": SMALL | {"weights": "random", "regime": "io+bn"},
    "axis x, not divided": SMALL | {"axis": "x", "normalize": False, "regime": "io+bn"},
    "released": SMALL | {"protocol": "released", "optimizer": "sgd", "lr": 0.1,
                         "weight_decay": 1e-4, "schedule": "cosine_per_iteration"},
    "tuning": SMALL | {"protocol": "tuning", "label_smoothing": 0.1, "augment": "upright"},
    "cosine, no augmentation": SMALL | {"schedule": "cosine", "augment": "none"},
    "bf16": SMALL | {"amp": "bf16", "epochs": 1},
    "one shot, images": SMALL | FEW,
    "one shot, random": SMALL | FEW | {"weights": "random"},
    "hard labels": SMALL | STUDENT | {"distill": "hard"},
    "soft labels": SMALL | STUDENT | {"distill": "soft", "temperature": 0.8},
    "fractals": SMALL | {"model": "resnet18", "weights": "fractal", "epochs": 1},
    "torchvision's plain stride": SMALL | {"model": "resnet18", "weights": "random",
                                           "recipe": None, "epochs": 1},
    "bagnet": SMALL | {"model": "bagnet17", "weights": "random", "epochs": 1, "train_limit": 8},
    "res16": SMALL | {"model": "res16unet34", "weights": "random", "recipe": None, "epochs": 1,
                      "train_limit": 8},
    "pointnet2": SMALL | POINTS | {"model": "pointnet2_ssg", "weights": "fractal_pixels"},
    "point vit": SMALL | POINTS | {"model": "point_vit_b16", "weights": "random"},
    "simpleview": SMALL | POINTS | {"model": "simpleview", "weights": "random"},
    "views": SMALL | POINTS | {"model": "views:efficientnet_lite0"},
    "rooms, u-net": ROOMS | {"weights": "imagenet1k"},
    "rooms, u-net, poly": ROOMS | {"schedule": "poly", "optimizer": "sgd", "nesterov": True,
                                   "epochs": 1},
    "rooms, blocks": ROOMS | BLOCKS | {"weights": "fractal_pixels", "protocol": "released",
                                       "validate_every": 2},
    "streets, u-net, warm-up": STREETS | {"model": "unet:resnet18", "weights": "fractal",
                                          "voxel_size": 0.5, "decoder_width": 0.125, "epochs": 1,
                                          "schedule": "warmup_cosine", "warmup_steps": 2},
    "streets, range": STREETS | RANGE | {"weights": "imagenet1k", "regime": "io+bn",
                                         "protocol": "tuning"},
}  # fmt: skip
RESUMED = ("io+bn", "streets, range")  # also interrupted after the first epoch


def summary(result) -> dict:
    """Return what a run is nailed by: all its numbers but times, and a digest of its tensors."""
    history = result.history.drop(columns=["seconds", "eval_seconds"], errors="ignore")
    files = sorted(result.folder.glob("*.safetensors"))
    tables = [name for name in ("probes.csv", "confusion.csv")
              if (result.folder / name).exists()]  # fmt: skip
    return {
        "history": json.loads(history.to_json(orient="records", double_precision=15)),
        "metrics": {k: v for k, v in result.metrics.items() if not k.startswith("seconds")},
        "norms": {f.stem: _norms(load_file(f)) for f in files},
        "bits": {f.stem: _digest(load_file(f)) for f in files},
        "tables": {name: hashlib.sha256((result.folder / name).read_bytes()).hexdigest()[:16]
                   for name in tables},
    }  # fmt: skip


def _norms(tensors: dict) -> float:
    return float(sum(t.double().square().sum() for t in tensors.values()).sqrt())


def _digest(tensors: dict) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel()
                      else b"")  # fmt: skip
    return digest.hexdigest()[:16]


def machine() -> dict[str, str]:
    """Return what equal bits need: the processor's name and the versions that compute."""
    import numba
    import numpy

    from i2p_lib.machine import cpu_name

    return {"cpu": cpu_name(), "torch": torch.__version__, "numpy": numpy.__version__,
            "numba": numba.__version__}  # fmt: skip


def main() -> None:
    """Train the plan into a fresh store and write the record."""
    root = HERE.parents[1]
    sys.path[:0] = [str(root), str(HERE.parent), str(root / "data_scripts")]
    from tiny_scenes import tiny_scene_sets

    from i2p_lib.runs import run
    from i2p_lib.runs.spec import spec_from

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.environ["I2P_DATA"] = str(tiny_scene_sets(Path(place)))
        runs = {}
        for name, settings in PLAN.items():
            result = run(spec_from(settings, name), store=Path(place) / "runs", progress=False)
            runs[name] = summary(result)
            print(f"{result.metrics['seconds_total']:6.1f} s  {name}", flush=True)
    temp = RECORD.with_suffix(".part")
    temp.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
    temp.replace(RECORD)


if __name__ == "__main__":
    main()
