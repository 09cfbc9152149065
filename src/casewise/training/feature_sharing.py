"""Features of frozen networks by content: computed once for all folds, learners and runs that need the same.

The address of a block of panels' features is a hash over the network's input itself (the pixels after all
preprocessing), its frozen layers, and everything else that decides the last bit. What is fitted on the subjects of a
fold changes the pixels or the layers, and thus the address: it is never shared with another fold.

Panels are always computed in the same blocks, whether anything is shared or not, so that the bits are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from casewise.errors import CasewiseError
from casewise.files import TEMPORARY, cache_folder, parsed_json, replacing, write_json
from casewise.training.compute_plan import cpu_name
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.modalities.dataset import PanelDataset

__all__ = ["FeatureStore", "SharedFeatures", "cached_or_computed", "digest_of", "digest_of_panels", "machine"]

# The panels of a block, and the views of a block whose pixels are in memory at once.
BLOCK, VIEWS = 256, 16
# The locks of a store: two processes wait for each other if they compute blocks with the same lock.
LOCKS = 64
# In bytes: what the store keeps by default.
LIMIT = 4 * 2**30
VARIABLE = "CASEWISE_FEATURE_CACHE"


@dataclass(frozen=True)
class FeatureStore:
    """A folder of values by address; the least recently used ones are removed above `limit` bytes; 0 stores nothing.

    A damaged or missing file is computed again. If the folder cannot be written, values are computed and not stored.
    """

    folder: Path
    limit: int = LIMIT

    @classmethod
    def of_user(cls) -> FeatureStore:
        """The store in casewise's cache; `CASEWISE_FEATURE_CACHE` states its size in GB.

        Raises:
            CasewiseError: the variable is not a number of at least 0.
        """
        text = os.environ.get(VARIABLE, "")
        try:
            gigabytes = float(text) if text else LIMIT / 2**30
            limit = int(gigabytes * 2**30)
        except (ValueError, OverflowError):
            limit = -1
        if limit < 0:
            raise CasewiseError(f"{VARIABLE}: must be a number of GB of at least 0, such as 4, not {text[:80]!r}.")
        return cls(cache_folder() / "features", limit)

    def read(self, address: str) -> Tensor | None:
        """The values at this address; None if they are not stored or damaged."""
        path = self._path(address)
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                values: Tensor = file.get_tensor("features")
                checksum = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError):  # it is missing or damaged
            return None
        if checksum != _checksum(values):
            return None
        with suppress(OSError):
            os.utime(path)  # it was used
        return values

    def write(self, address: str, values: Tensor) -> None:
        """Store values, and remove the least recently used ones above the limit."""
        if values.nbytes > self.limit:
            return
        values = values.contiguous()
        with suppress(CasewiseError, SafetensorError, OSError):  # a full disk, or a folder that cannot be written
            with replacing(self._path(address), durable=False) as temporary:
                save_file({"features": values}, temporary, metadata={"sha256": _checksum(values)})
            # the folder is searched once in a while, not after each block
            _unchecked[self.folder] = _unchecked.get(self.folder, self.limit) + values.nbytes
            if _unchecked[self.folder] > self.limit // 32:
                _unchecked[self.folder] = 0
                self._trim()

    def locked(self, address: str) -> FileLock:
        """The lock under which the values of this address are computed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"lock-{int(address[:8], 16) % LOCKS:02d}")

    def _path(self, address: str) -> Path:
        return self.folder / address[:2] / f"{address}.safetensors"

    def _trim(self) -> None:
        """Remove the least recently used files above the limit, and what killed processes left behind."""
        try:
            with FileLock(self.folder / "lock-trim").acquire(timeout=0):
                files = []
                for path in self.folder.glob("*/*"):
                    with suppress(OSError):
                        status = path.stat()
                        files.append((status.st_mtime_ns, status.st_size, path))
                total = sum(size for _, size, _ in files)
                for _, size, path in sorted(files, key=lambda file: (not file[2].name.startswith(TEMPORARY), file[0])):
                    if total <= self.limit:
                        break
                    with suppress(OSError):
                        path.unlink()
                        total -= size
        except Timeout:  # another process does it
            return


@dataclass(frozen=True, eq=False)
class SharedFeatures:
    """The panels of a study as one learner of one fold reads them, whose features are shared by content.

    Attributes:
        panels: all panels.
        sides: subsets of them with their rows, such as those of training and of early stopping.
        identity: a text that decides the pixels of the panels within this version of casewise: the hash of the panels
            is then kept by it. Empty: they are hashed every time.
        store: where features are kept.
    """

    panels: PanelDataset
    sides: tuple[tuple[PanelDataset, Sequence[int]], ...] = ()
    identity: str = ""
    store: FeatureStore = field(default_factory=FeatureStore.of_user)
    _whole: dict[str, Tensor] = field(default_factory=dict, repr=False)  # the last values, of all panels

    def of(
        self,
        data: PanelDataset,
        layers: nn.Module,
        compute: Callable[[PanelDataset], Tensor],
        how: dict[str, Any],
        *,
        empty: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """What `compute` gives for each panel of `data`, (P, ...): all panels or one of the sides.

        Bags, and other data than these, are computed and not shared.

        Args:
            layers: what is computed, in eval mode and without gradients. Only they and the panels decide the values.
            how: precision and other facts that decide the bits, as plain values.
            empty: creates the tensor to fill, given its shape and `dtype`. Without it the values of all panels are in
                memory, where the next side finds them.
        """
        rows = self._rows(data)
        if rows is None or data.bags:
            return compute(data)
        facts = json.dumps([digest_of(layers), how, machine(layers)], sort_keys=True)
        if empty is not None:
            return self._computed(rows, facts, compute, empty)
        if facts not in self._whole:
            self._whole.clear()
            self._whole[facts] = self._computed(range(len(self.panels)), facts, compute, torch.empty)
        whole = self._whole[facts]
        return whole if data is self.panels else whole[torch.as_tensor(rows)]

    def _computed(
        self,
        rows: Sequence[int],
        facts: str,
        compute: Callable[[PanelDataset], Tensor],
        empty: Callable[..., Tensor],
    ) -> Tensor:
        """The values of some rows, block by block."""
        numbers = torch.as_tensor(rows)
        waiting = torch.unique(numbers // BLOCK).tolist()
        hashes = _hashes_of_blocks(self) if self.store.limit else None
        result: Tensor | None = None
        for wait in (0, -1):  # first those that no other process is computing, then the rest
            for block in list(waiting):
                values = cached_or_computed(
                    self.store,
                    _sha256(f"{hashes[block]} {facts}") if hashes else None,
                    partial(compute, self.block(block)),
                    wait=wait,
                )
                if values is None:
                    continue
                waiting.remove(block)
                if result is None:
                    result = empty((len(rows), *values.shape[1:]), dtype=values.dtype)
                inside = torch.nonzero(numbers // BLOCK == block).flatten()
                result[inside] = values[numbers[inside] - block * BLOCK].to(result.device)
        assert result is not None  # there is a panel
        return result

    def _rows(self, data: PanelDataset) -> Sequence[int] | None:
        # a copy with other variations, which do not change its plain panels, has the same labels
        truth = getattr(data, "truth", None)
        if truth is self.panels.truth:
            return range(len(self.panels))
        return next((list(map(int, rows)) for side, rows in self.sides if side.truth is truth), None)

    def block(self, block: int) -> PanelDataset:
        """The panels of a block."""
        return self.panels.subset(list(range(block * BLOCK, min((block + 1) * BLOCK, len(self.panels)))))


def cached_or_computed(
    store: FeatureStore, address: str | None, compute: Callable[[], Tensor], *, wait: float = -1
) -> Tensor | None:
    """The values at an address, computed and stored if they are not there; None if another process computes them.

    Args:
        address: None: they are computed and not stored.
        wait: the seconds to wait for another process; -1: until it has finished.
    """
    if address is None or not store.limit:
        return compute()
    if (values := store.read(address)) is not None:
        return values
    try:
        lock = store.locked(address)
        lock.acquire(timeout=wait)
    except Timeout:
        return None
    except (OSError, NotImplementedError):  # a folder that cannot be written, or without locks
        return compute()
    with lock:
        if (values := store.read(address)) is None:
            values = compute().cpu()
            store.write(address, values)
    return values


# The bytes that this process has written to a store since it was searched for files to remove.
_unchecked: dict[Path, int] = {}


def _hashes_of_blocks(shared: SharedFeatures) -> tuple[str, ...]:
    """The hash of the pixels of each block of panels."""

    def computed() -> tuple[str, ...]:
        return tuple(digest_of_panels(shared.block(number)) for number in range(-(-len(shared.panels) // BLOCK)))

    if not shared.identity:
        return computed()
    views = hashlib.sha256()
    for numbers in shared.panels.views():
        _update(views, numbers)
    key = _sha256(json.dumps([shared.identity, views.hexdigest(), len(shared.panels), BLOCK, _versions()]))
    path = shared.store.folder / key[:2] / f"panels-{key}.json"
    with suppress(LookupError):
        return _remembered(path, key)
    try:
        lock = shared.store.locked(key)
        lock.acquire()
    except (OSError, NotImplementedError):
        return computed()
    with lock:
        with suppress(LookupError):
            return _remembered(path, key)
        hashes = computed()
        with suppress(CasewiseError):
            write_json(path, {"key": key, "blocks": hashes, "sha256": _sha256(" ".join(hashes))}, durable=False)
    return hashes


@lru_cache(maxsize=4)
def _remembered(path: Path, key: str) -> tuple[str, ...]:
    """The hashes of blocks in a file; a `LookupError` if it is missing or damaged."""
    try:
        record = parsed_json(path.read_text(encoding="utf-8"))
        hashes = tuple(map(str, record["blocks"]))
        intact = record["key"] == key and record["sha256"] == _sha256(" ".join(hashes))
    except (OSError, ValueError, TypeError) as error:
        raise LookupError from error
    if not intact:
        raise LookupError
    return hashes


def digest_of_panels(data: PanelDataset) -> str:
    """A hash of the pixels of every view of some panels, and of the panel of each view."""
    digest = hashlib.sha256()
    slots, owner = data.views()
    digest.update(json.dumps([len(data), owner.tolist()]).encode())
    for views in slots.split(VIEWS):
        _update(digest, data.plain_batch(views, torch.device("cpu")).cpu())
    return digest.hexdigest()


def digest_of(layers: nn.Module) -> str:
    """A hash of layers: their weights, statistics and settings, without a network's head and its targets."""
    from casewise.models.backbones import Network

    digest = hashlib.sha256()
    body = layers.body if isinstance(layers, Network) else layers
    digest.update(repr(body).encode())
    if isinstance(layers, Network):
        digest.update(f"{layers.name} {layers.read_map} {layers.map_cells} {layers.fusion}".encode())
        for tensor in (layers.mean, layers.std):
            _update(digest, tensor.cpu())
    for name, tensor in (*body.named_parameters(), *body.named_buffers()):
        digest.update(name.encode())
        _update(digest, tensor.detach().cpu())
    return digest.hexdigest()


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def _checksum(values: Tensor) -> str:
    digest = hashlib.sha256()
    _update(digest, values)
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def machine(layers: nn.Module) -> list[Any]:
    """What decides the last bits besides the values: versions, processor, number of threads."""
    device = next(layers.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return [*_versions(), device.type, name, torch.get_num_threads(), torch.backends.mkldnn.enabled]


@lru_cache(maxsize=1)
def _processor() -> str:
    return f"{cpu_name()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@lru_cache(maxsize=1)
def _versions() -> tuple[str, ...]:
    """The versions of the libraries, and a hash of the part of casewise that computes panels and features."""
    source = hashlib.sha256()
    for folder in ("modalities", "plugins/slides", "plugins/volumes", "models", "training"):
        for path in sorted((Path(__file__).parent.parent / folder).rglob("*.py")):
            source.update(path.read_bytes())
    versions = [__version__, source.hexdigest()]
    for package in ("torch", "torchvision", "timm", "numpy"):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return tuple(versions)
