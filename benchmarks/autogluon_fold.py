"""One fold with AutoGluon's `MultiModalPredictor`, in an environment of its own, which has other versions of PyTorch.

`peers.py --autogluon PYTHON` runs this file with the interpreter of an environment where `pip install
autogluon.multimodal` was run, with a task as JSON on standard input. The predictor is left at its defaults, except for
its network: that of the other peers with their weights, because nothing can be downloaded.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

# torchvision's networks, by timm's name for them.
TIMM = {"mobilenet_v2": "mobilenetv2_100"}
AT_SIDE = "encoder_at_side"


def checkpoint(name: str, weights: Path, side: dict[str, int], folder: Path) -> Path:
    """A folder with a network and its weights, as AutoGluon reads it; a transformer gets its `side` of images.

    torchvision's MobileNetV2 has other names in timm, in the same order.
    """
    import timm
    import torch
    from safetensors.torch import load_file
    from torchvision import models

    architecture, values = TIMM.get(name, name), load_file(weights)
    network = timm.create_model(architecture, num_classes=0, **side)
    if name in TIMM:
        names = [key for key in models.get_model(name, weights=None).state_dict() if not key.startswith("classifier")]
        values = {own: values[key] for own, key in zip(network.state_dict(), names, strict=True)}
    elif side:
        values = timm.models.vision_transformer.checkpoint_filter_fn(values, network)
    own = network.state_dict()
    network.load_state_dict({key: value.float() for key, value in values.items() if key in own})
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": architecture, "num_features": network.num_features, "pretrained_cfg": network.default_cfg}
    if side:
        # AutoGluon makes a network by its name alone
        def encoder_at_side(pretrained: bool = False, **options: Any) -> Any:
            return timm.create_model(architecture, **(side | options))

        encoder_at_side.__module__ = "timm.models.vision_transformer"
        timm.models.register_model(encoder_at_side)
        size = (3, side["img_size"], side["img_size"])
        config |= {"architecture": AT_SIDE, "pretrained_cfg": network.default_cfg | {"input_size": size}}
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
    network = checkpoint(task["network"], Path(task["weights"]), task["side"], folder / "network")
    settings["model.timm_image.checkpoint_name"] = str(network)
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
