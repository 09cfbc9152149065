"""Where first weights come from: the file that is used, or the download that is needed. No network is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import WeightsError, nearest
from casewise.files import checksum
from casewise.run_folder import JobFolder
from casewise.study.sources import BackboneSource, source_of, sources

if TYPE_CHECKING:
    from casewise.study.schema import Study

# What the key `weights` takes besides a path.
KEYWORDS = ("pretrained", "random")


@dataclass(frozen=True)
class FirstWeights:
    """The first weights of a network, and the files that hold them; nothing is loaded or downloaded.

    Attributes:
        name: the network.
        stated: `pretrained`, `random`, `bundle:PATH`, or the path of a file or a folder, as a study states them.
        folder: the folder of weights of the study.
    """

    name: str
    stated: str = "pretrained"
    folder: Path | None = None

    @property
    def source(self) -> BackboneSource:
        return source_of(self.name)

    @property
    def bundle(self) -> JobFolder | None:
        """The trained network of casewise that is stated."""
        return JobFolder(Path(self.stated.removeprefix("bundle:"))) if self.stated.startswith("bundle:") else None

    @property
    def file(self) -> Path | None:
        """The file with the weights, which may be missing if it is stated; None if none is needed or one is downloaded.

        Weights that a study calls `pretrained` are looked up in its folder of weights, then in CASEWISE_WEIGHTS.
        """
        if self.stated == "random":
            return None
        if self.bundle:
            return self.bundle.weights.path
        if self.stated != "pretrained":
            path = Path(self.stated)
            return path / f"{file_name(self.name)}.safetensors" if path.is_dir() else path
        return self._in_folders(".safetensors")

    @property
    def config(self) -> Path | None:
        """The config.json in a folder of weights, as `owner_name.json`, of a network that needs one."""
        return self._in_folders(".json") if self.source.has_config else None

    @property
    def is_random(self) -> bool:
        """Whether the network keeps its random weights: stated, or because it has no published ones."""
        unpublished = self.stated == "pretrained" or (not self.bundle and Path(self.stated).is_dir())
        return self.stated == "random" or (not self.source.is_pretrained and unpublished and not self.is_here)

    @property
    def is_here(self) -> bool:
        """Whether the file of the weights exists."""
        return self.file is not None and self.file.is_file()

    @property
    def is_present(self) -> bool:
        """Whether pretrained weights are on this computer: in a folder of weights, or downloaded earlier."""
        return self.file is not None or self.source.is_cached(self.name)

    @property
    def needs_download(self) -> bool:
        """Whether the weights, or the config.json without which the network cannot be built, must be downloaded.

        >>> FirstWeights("resnet18", "random").needs_download, FirstWeights("cnn").needs_download
        (False, False)
        """
        if self.stated == "pretrained":
            return self.source.is_pretrained and not self.is_present
        return self.source.has_config and self.config is None and not self.source.is_cached(self.name)

    @property
    def encoder_files(self) -> list[Path]:
        """The files in folders of weights that an encoder is read from; empty if it is downloaded."""
        return [path for path in (self.file, self.config) if path]

    def _in_folders(self, ending: str) -> Path | None:
        folders = [folder for folder in (self.folder, environment_folder()) if folder]
        paths = [folder / f"{file_name(self.name)}{ending}" for folder in folders]
        return next((path for path in paths if path.is_file()), None)

    def existing_file(self) -> Path | None:
        """The file, None if there is none to read.

        Raises:
            WeightsError: a stated file does not exist.
        """
        if self.is_here or self.is_random or self.file is None:
            return self.file if self.is_here else None
        hint = nearest(self.file.name, [*KEYWORDS, *(path.name for path in self.file.parent.glob("*"))])
        raise WeightsError(f"weights: there is no file {self.file}, which {self.name} needs.{hint}")

    def clause(self) -> str:
        """A clause on where the weights are.

        Raises:
            WeightsError: a stated file does not exist, or is damaged; or one of the two files of a hub repository is in
                a folder and the other is not.

        >>> FirstWeights("resnet18", "random").clause()
        'random, as the study states'
        """
        name, source = self.name, self.source
        files = self.encoder_files
        if source.has_config and self.stated == "pretrained" and len(files) == 1 and not source.is_cached(name):
            lacking, original = (".safetensors", "model") if files[0].suffix == ".json" else (".json", "config")
            needed = f"{file_name(name)}{lacking} (the repository's {original}{lacking})"
            raise WeightsError(f"weights: {name} needs {needed} beside {files[0]}.")
        if file := self.existing_file():
            if file.suffix == ".safetensors":
                _check_readable(name, file)
            return (
                f"on this computer, in {file.parent}" if file.stem == file_name(name) else f"on this computer, {file}"
            )
        if self.stated == "random":
            return "random, as the study states" + (
                "; a run first downloads the architecture" if self.needs_download else ""
            )
        if self.is_random:
            return "random: there are no published weights"
        if source.is_cached(name):
            return f"on this computer, downloaded earlier by {source.name}"
        stated = environment_folder()
        missing = f"; CASEWISE_WEIGHTS names {stated}, which does not exist" if stated and not stated.is_dir() else ""
        return (
            f"NOT on this computer{missing}; a run first downloads them by {source.name}, which needs a connection (or "
            "name a folder with them by --weights-dir or CASEWISE_WEIGHTS)"
        )


def file_name(name: str) -> str:
    """A network's file name, without the ending.

    >>> file_name("hf-hub:owner/name")
    'owner_name'
    """
    return name.rpartition(":")[2].replace("/", "_")


def environment_folder() -> Path | None:
    """The folder of weights that CASEWISE_WEIGHTS names."""
    value = os.environ.get("CASEWISE_WEIGHTS")
    return Path(value) if value else None


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


def remembered_checksum(file: Path) -> str:
    """The SHA-256 of a file, read again only if it has changed."""
    status = file.stat()
    return _checksum(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _checksum(file: Path, size: int, changed: int) -> str:
    return checksum(file)


def _quick_names() -> list[str]:
    return [name for source in sources() for name in source.quick]


def embedding_weights(study: Study) -> Iterator[tuple[str, Path]]:
    """Fast networks with weights on this computer, and their files: the study's first; none for random weights."""
    if study.weights == "random":
        return
    stated, quick = study.weights, _quick_names()
    names = [name.partition("@")[0] for name in study.backbones]
    own = [name for name in names if (source := source_of(name)).is_convolutional and source.is_pretrained]
    for name in dict.fromkeys([*[name for name in quick if name in own], *quick, *own]):
        weights = FirstWeights(
            name, stated if isinstance(stated, str) else stated.get(name, "pretrained"), study.weights_dir
        )
        if weights.file and weights.is_here and not weights.bundle:
            yield name, weights.file


def embedding_origin(name: str, file: Path) -> tuple[str, str]:
    """What an audit records of its embedding: the network with the file's name, and the file's checksum."""
    return f"{name}, {file.name}", checksum(file)
