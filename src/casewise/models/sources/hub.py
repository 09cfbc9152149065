"""The base class of sources whose weights are in repositories of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import StudyError, WeightsError, cut, nearest
from casewise.study.sources import BackboneSource, Origin
from casewise.study.weight_files import remembered_checksum

if TYPE_CHECKING:
    from torch import Tensor

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w.-]+)?")


class HubSource(BackboneSource):
    """Networks named `PREFIX:owner/name`, perhaps with a revision after an `@`, with model.safetensors and config.json.

    The repository is not looked up when a study is read.
    """

    package = "huggingface_hub"
    has_config = True

    def check(self, name: str, key: str) -> None:
        if not (name.startswith(self.prefix) and _REPOSITORY.fullmatch(name.removeprefix(self.prefix))):
            hint = nearest(name, [f"{self.prefix}{name}"]) if _REPOSITORY.fullmatch(name) else ""
            raise StudyError(f"{key}: {cut(name)} is not written as `{self.prefix}owner/name`.{hint}")

    def repositories(self, name: str) -> list[Path]:
        """The folders of a network in the cache of the hub."""
        repository = name.removeprefix(self.prefix).partition("@")[0].replace("/", "--")
        configs = hub_cache().glob(f"models--{repository}/snapshots/*/config.json")
        return list(dict.fromkeys(config.parents[2] for config in configs))

    def is_cached(self, name: str) -> bool:
        return bool(self.repositories(name))

    def cached_files(self, name: str) -> list[Path]:
        return [file for path in self.repositories(name) for file in sorted(path.glob("snapshots/*/model.safetensors"))]

    def origin(self, name: str) -> Origin:
        """The origin of cached weights: published if each file is named by the SHA-256 of its content, else a file."""
        digest, is_proved, files = "", True, self.cached_files(name)
        for file in files:
            digest, stored_as = remembered_checksum(file), file.resolve().name
            is_proved &= bool(re.fullmatch("[0-9a-f]{64}", stored_as))
            if is_proved and stored_as != digest:
                raise WeightsError(
                    f"weights: {file} was changed after its download: its SHA-256 differs. Delete the file."
                )
        digest = digest if len(files) == 1 else ""
        if not is_proved:
            return Origin("file", f"{name} in the cache of the hub", digest)
        return Origin("published", name, digest)

    def download(self, name: str) -> tuple[str, dict[str, Tensor]]:
        from casewise.models.weights import read_tensors

        path = self._file(name, "model.safetensors")
        return f"{name}, {path.name}", read_tensors(path)

    def download_config(self, name: str) -> Path:
        return self._file(name, "config.json")

    def _file(self, name: str, file: str) -> Path:
        from huggingface_hub import hf_hub_download

        repository, _, revision = name.removeprefix(self.prefix).partition("@")
        return Path(hf_hub_download(repository, file, revision=revision or None))


def hub_cache() -> Path:
    """The folder in which the hub keeps downloads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"))
