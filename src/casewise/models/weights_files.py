"""Where first weights lie, and which the audit embeds images with; no network library is needed to find them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.files import checksum
from casewise.run_folder import JobFolder
from casewise.study.backbones import TORCHVISION

if TYPE_CHECKING:
    from casewise.study.schema import Study

# Fast networks first, because an embedding is computed for every image of the cohort.
QUICK = ("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "resnet18", "resnet34")


def weights_file(name: str, weights: str, folder: Path | None) -> Path | None:
    """The file that `load_weights` uses, or None if it needs none or downloads one."""
    if weights == "random":
        return None
    if weights.startswith("bundle:"):
        return JobFolder(Path(weights.removeprefix("bundle:"))).weights.path
    if weights != "pretrained":
        path = Path(weights)
        return path / f"{file_name(name)}.safetensors" if path.is_dir() else path
    candidates = [
        candidate / f"{file_name(name)}.safetensors" for candidate in (folder, environment_folder()) if candidate
    ]
    return next((path for path in candidates if path.is_file()), None)


def file_name(name: str) -> str:
    """The name of a backbone's file, without its suffix."""
    return name.removeprefix("timm:").replace("/", "_")


def environment_folder() -> Path | None:
    """The folder that the environment names for first weights."""
    value = os.environ.get("CASEWISE_WEIGHTS")
    return Path(value) if value else None


def embedding_weights(study: Study) -> Iterator[tuple[str, Path]]:
    """Fast networks whose weights are at hand, with their files; those of the study first, none for random weights."""
    if study.weights == "random":
        return
    stated = study.weights
    for name in _in_order(stated_name.partition("@")[0] for stated_name in study.backbones):
        weights = stated if isinstance(stated, str) else stated.get(name, "pretrained")
        file = weights_file(name, weights, study.weights_dir)
        if file is not None and file.is_file() and not weights.startswith("bundle:"):
            yield name, file


def embedding_origin(name: str, file: Path) -> tuple[str, str]:
    """What an audit records of its embedding: the network with the file's name, and the file's checksum."""
    return f"{name}, {file.name}", checksum(file)


def _in_order(backbones: Iterable[str]) -> list[str]:
    preferred = [name for name in backbones if name in TORCHVISION]
    return list(dict.fromkeys([*[name for name in QUICK if name in preferred], *QUICK, *preferred]))
