"""Writing the network of a run as one file that stands on its own, with a card beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from i2p_lib.files import sha256, write_text
from i2p_lib.runs.store import write_tensors
from i2p_lib.runs.tables import RunResult

REFUSED = {
    ".onnx": "ONNX has no operator for convolutions on sparse voxels",
    ".pt": "TorchScript cannot compile the sparse layers, and a pickle can run code",
    ".pth": "a pickle can run code when it is read",
    ".ckpt": "a pickle can run code when it is read",
}


def export(result: RunResult, file: str | Path) -> list[Path]:
    """Write all tensors of a run's network, frozen ones included, and a card: NAME.md beside it.

    The file is safetensors; its header holds the run's settings, its classes and how clouds were
    read, as JSON under "note".  `weights` of a run do not take it, since it is a network on points:
    build that with `load_run(...).net`, or from the settings in the header.

    Returns the paths of both.  Raises ValueError for another format, saying why.
    """
    file = Path(file).expanduser()
    if file.suffix != ".safetensors":
        why = REFUSED.get(file.suffix.lower(), "that format is not known here")
        raise ValueError(f"{file.name}: {why}; write a .safetensors file, which every framework "
                         "can read")  # fmt: skip
    spec, about = result.spec, result.about
    note = {"spec": spec.model_dump(mode="json"), "metrics": result.metrics,
            "class_names": list(result.class_names), "card": about.get("card")}  # fmt: skip
    write_tensors(file, result.net.state_dict(), note)
    rows = {
        "settings": spec.label(), "classes": ", ".join(result.class_names),
        "trained on": f"{spec.on} ({result.metrics['n_train']} items)",
        "weights": spec.weights,
        "finished": about["finished"], "machine": json.dumps(about["machine"]),
        "versions": json.dumps(about["versions"]), "SHA-256 of the file": sha256(file),
    }  # fmt: skip
    scores = pd.Series({name: value for name, value in result.metrics.items()}, name="value")
    lines = [f"# {file.stem}", "", f"The network of the run `{result.folder.name}`.", "",
             *(f"- {name}: {value}" for name, value in rows.items()), "", "## Scores", "",
             *(f"- {name}: {value:g}" for name, value in scores.items()), "", "## Settings", "",
             "```json", json.dumps(note["spec"], indent=1), "```", "", "## To use it", "",
             "```python", "import i2p_lib as i2p",
             f"net = i2p.load_run({str(result.folder)!r}).net", "```", ""]  # fmt: skip
    write_text(card := file.with_suffix(".md"), "\n".join(lines))
    return [file, card]
