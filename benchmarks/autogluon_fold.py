"""One fold with AutoGluon's `MultiModalPredictor`, in an environment of its own, which has other versions of PyTorch.

`peers.py --autogluon PYTHON` runs this file with the interpreter of an environment where `pip install
autogluon.multimodal` was run, with a task as JSON on standard input. The predictor is left at its defaults, except for
its network: MobileNetV2 with the weights of the other peers, because nothing can be downloaded.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ARCHITECTURE, WIDTH = "mobilenetv2_100", 1280


def checkpoint(weights: Path, folder: Path) -> Path:
    """A folder with the weights of torchvision's MobileNetV2, which timm has under other names in the same order."""
    import timm
    import torch
    from safetensors.torch import load_file
    from torchvision import models

    network, values = timm.create_model(ARCHITECTURE, num_classes=0), load_file(weights)
    names = [name for name in models.mobilenet_v2().state_dict() if not name.startswith("classifier")]
    network.load_state_dict(dict(zip(network.state_dict(), (values[name] for name in names), strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": ARCHITECTURE, "num_features": WIDTH, "pretrained_cfg": network.default_cfg}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return folder


def run(task: dict[str, Any]) -> float:
    """Train on the other folds, write the predictions of one, and return the seconds."""
    import pandas as pd
    from autogluon.multimodal import MultiModalPredictor

    table, folder = pd.read_csv(task["table"], keep_default_na=False, dtype={"path": str}), Path(task["folder"])
    judged = table[table["fold"] == task["fold"]].reset_index(drop=True)
    train = table[(table["fold"] != task["fold"]) & (table["fold"] != 0)]
    files = [frame.assign(path="/" + frame["path"].str.lstrip("/"))[["path", "label"]] for frame in (train, judged)]
    settings = {"model.names": ["timm_image"], "env.num_gpus": 0, "env.precision": "32"}
    settings["model.timm_image.checkpoint_name"] = str(checkpoint(Path(task["weights"]), folder / "network"))
    shutil.rmtree(folder / "predictor", ignore_errors=True)
    kind = "regression" if task["numbers"] else "binary" if train["label"].nunique() == 2 else "multiclass"
    start = time.perf_counter()
    predictor = MultiModalPredictor("label", problem_type=kind, path=str(folder / "predictor"), verbosity=1)
    predictor.fit(files[0], time_limit=task["seconds"], hyperparameters=settings, seed=0)
    if task["numbers"]:
        predictions = pd.DataFrame({"prediction": predictor.predict(files[1][["path"]]).to_numpy()})
    else:
        predictions = predictor.predict_proba(files[1][["path"]]).add_prefix("p_").reset_index(drop=True)
    judged.join(predictions).to_csv(task["predictions"], index=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps({"seconds": run(json.load(sys.stdin))}))
