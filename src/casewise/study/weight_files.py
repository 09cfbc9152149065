"""Where first weights come from: the file that is used, or the download that is needed. No network is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import WeightsError, nearest
from casewise.files import checksum
from casewise.run_folder import JobFolder
from casewise.study.backbones import TORCHVISION, UNTRAINED

if TYPE_CHECKING:
    from casewise.study.schema import Study

# What the key `weights` takes besides a path.
KEYWORDS = ("pretrained", "random")
# How names of repositories begin, as in timm.
HUB = "hf-hub:"
# Fast networks first, because an embedding is computed for every image of the cohort.
QUICK = ("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "resnet18", "resnet34")


def weights_file(name: str, weights: str, folder: Path | None) -> Path | None:
    """The file with the first weights of a network, or None if it needs none or downloads one."""
    if weights == "random":
        return None
    if weights.startswith("bundle:"):
        return JobFolder(Path(weights.removeprefix("bundle:"))).weights.path
    if weights != "pretrained":
        path = Path(weights)
        return path / f"{file_name(name)}.safetensors" if path.is_dir() else path
    folders = [each for each in (folder, environment_folder()) if each]
    candidates = [each / f"{file_name(name)}.safetensors" for each in folders]
    return next((path for path in candidates if path.is_file()), None)


def file_name(name: str) -> str:
    """A network's file name, without the ending.

    >>> file_name("hf-hub:owner/name")
    'owner_name'
    """
    return name.removeprefix("timm:").removeprefix(HUB).replace("/", "_")


def environment_folder() -> Path | None:
    """The folder of weights that CASEWISE_WEIGHTS names."""
    value = os.environ.get("CASEWISE_WEIGHTS")
    return Path(value) if value else None


def origin_of_weights(name: str, weights: str, folder: Path | None) -> str:
    """A clause on the first weights of a network; nothing is loaded or downloaded.

    Raises:
        WeightsError: a stated file does not exist, or is damaged; or one of the two files of a hub repository is in a
            folder and the other is not.

    >>> origin_of_weights("resnet18", "random", None)
    'random, as the study states'
    """
    files = encoder_files(name, folder)
    if name.startswith(HUB) and weights == "pretrained" and len(files) == 1 and not _is_cached(name):
        lacking, original = (".safetensors", "model") if files[0].suffix == ".json" else (".json", "config")
        needed = f"{file_name(name)}{lacking} (the repository's {original}{lacking})"
        raise WeightsError(f"weights: {name} needs {needed} beside {files[0]}.")
    file = weights_file(name, weights, folder)
    if file is not None and file.is_file():
        if file.suffix == ".safetensors":
            _check_readable(name, file)
        return f"on this computer, in {file.parent}" if file.stem == file_name(name) else f"on this computer, {file}"
    if name in UNTRAINED and (weights == "pretrained" or Path(weights).is_dir()):
        return "random: there are no published weights"
    if file is not None:
        hint = nearest(file.name, [*KEYWORDS, *(path.name for path in file.parent.glob("*"))])
        raise WeightsError(f"weights: there is no file {file}, which {name} needs.{hint}")
    if weights == "random":
        needs = needs_download(name, weights, folder)
        return "random, as the study states" + ("; a run first downloads the architecture" if needs else "")
    library = "torchvision" if name in TORCHVISION else "timm"
    if _is_cached(name):
        return f"on this computer, downloaded earlier by {library}"
    stated = environment_folder()
    missing = f"; CASEWISE_WEIGHTS names {stated}, which does not exist" if stated and not stated.is_dir() else ""
    return (
        f"NOT on this computer{missing}; a run first downloads them by {library}, which needs a connection (or name a "
        "folder with them by --weights-dir or CASEWISE_WEIGHTS)"
    )


def _check_readable(name: str, file: Path) -> None:
    """Check the header of a safetensors file and its size, which take no time.

    Raises:
        WeightsError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights: {file}, which {name} needs, is damaged or no safetensors file: {str(error).rstrip('.')}. Copy "
            "it again, or name another file."
        ) from error


def needs_download(name: str, weights: str, folder: Path | None) -> bool:
    """Whether the first weights of a network, or the architecture of one of a hub, are not on this computer.

    >>> needs_download("resnet18", "random", None), needs_download("cnn", "pretrained", None)
    (False, False)
    """
    if name.startswith(HUB) and weights != "pretrained":
        return hub_config(name, folder) is None and not _is_cached(name)
    if weights != "pretrained" or name in UNTRAINED:
        return False
    return weights_file(name, weights, folder) is None and not _is_cached(name)


def hub_config(name: str, folder: Path | None) -> Path | None:
    """The config.json of a hub repository in a folder of weights, as `owner_name.json`; None if there is none."""
    paths = [other / f"{file_name(name)}.json" for other in (folder, environment_folder()) if other]
    return next((path for path in paths if path.is_file()), None) if name.startswith(HUB) else None


def encoder_files(name: str, folder: Path | None) -> list[Path]:
    """The files in folders of weights that an encoder is read from; empty if it is downloaded."""
    return [path for path in (weights_file(name, "pretrained", folder), hub_config(name, folder)) if path]


def is_present(name: str, folder: Path | None = None) -> bool:
    """Whether pretrained weights of a network are on this computer: a file in a folder of weights, or a download."""
    return weights_file(name, "pretrained", folder) is not None or _is_cached(name)


def quick_networks(folder: Path | None) -> list[str]:
    """Networks of `QUICK` whose pretrained weights are on this computer."""
    return [name for name in QUICK if is_present(name, folder)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_cached(name: str) -> bool:
    """Whether the library has a download of this network in its cache."""
    if name in TORCHVISION:
        return bool(cached_torchvision_files(name))
    return next(_hub_repositories(name), None) is not None


def cached_torchvision_files(name: str) -> list[Path]:
    """The files of weights that PyTorch's cache has for a network of torchvision."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    checkpoints = Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"
    stems = {path: path.stem.partition("-")[0] for path in sorted(checkpoints.glob("*.pth"))}
    return [path for path, stem in stems.items() if _plain(re.sub(r"_rwightman$|_top1.*$", "", stem)) == _plain(name)]


def check_torchvision_file(path: Path, digest: str) -> None:
    """Check that a file in PyTorch's cache has the first digits of the SHA-256 that its name ends with.

    Raises:
        WeightsError: it does not.
    """
    digits = path.stem.rpartition("-")[2]
    if not digest.startswith(digits):
        raise WeightsError(f"weights: {path} was changed: its SHA-256 does not begin with {digits}. Delete the file.")


def cached_hub_files(name: str) -> list[Path]:
    """The files of weights that the cache of the hub has for a network of timm or of a repository."""
    return [file for path in _hub_repositories(name) for file in sorted(path.glob("snapshots/*/model.safetensors"))]


def _hub_repositories(name: str) -> Iterator[Path]:
    """The folders of a network in the cache of the hub."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"))
    if name.startswith(HUB):
        repository = name.removeprefix(HUB).partition("@")[0].replace("/", "--")
        configs = hub.glob(f"models--{repository}/snapshots/*/config.json")
        return (path for path in dict.fromkeys(config.parents[2] for config in configs))
    return hub.glob(f"models--timm--{file_name(name)}*")


def embedding_weights(study: Study) -> Iterator[tuple[str, Path]]:
    """Fast networks with weights on this computer, and their files: the study's first; none for random weights."""
    if study.weights == "random":
        return
    stated = study.weights
    own = [name.partition("@")[0] for name in study.backbones if name.partition("@")[0] in TORCHVISION]
    for name in dict.fromkeys([*[name for name in QUICK if name in own], *QUICK, *own]):
        weights = stated if isinstance(stated, str) else stated.get(name, "pretrained")
        file = weights_file(name, weights, study.weights_dir)
        if file is not None and file.is_file() and not weights.startswith("bundle:"):
            yield name, file


def embedding_origin(name: str, file: Path) -> tuple[str, str]:
    """What an audit records of its embedding: the network with the file's name, and the file's checksum."""
    return f"{name}, {file.name}", checksum(file)
