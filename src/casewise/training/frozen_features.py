"""Outputs of frozen layers for panels, computed once for all epochs, and once for all folds, learners and runs.

Augmented copies and the activations of frozen layers keep the precision of their computation; they are in memory up to
the job's limit, then in files.

Features are shared by content: the address of a block of panels' features is a hash over the network's input itself
(the pixels after all preprocessing), its frozen layers, and everything else that decides the last bit. What is fitted
on the subjects of a fold changes the pixels or the layers, and thus the address: it is never shared with another fold.
Panels are always computed in the same blocks, whether anything is shared or not, so that the bits are the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from casewise.errors import CasewiseError, RunError
from casewise.files import TEMPORARY, cache_folder, replacing
from casewise.modalities.dataset import FeatureData, PanelDataset, encode_bags
from casewise.models.backbones import Network, form_of, of_tiles
from casewise.models.shared_parts import in_batches, mean_over_views
from casewise.study.sources import libraries
from casewise.training.compute_plan import cpu_name

# In bytes, for all simultaneous jobs together.
MEMORY = 2 * 2**30
CHUNK = 64
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Buffer:
    """The storage of values that are computed once: in memory up to the job's share, then in files."""

    def __init__(self, memory: int) -> None:
        """`memory`: its size in memory, in bytes."""
        self.left = memory

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, path: Path) -> Tensor:
        """An empty tensor, in memory if it fits, else in the file `path`.

        Raises:
            RunError: the disk does not have enough space.
        """
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size <= self.left:
            self.left -= size
            return torch.empty(shape, dtype=dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        _reserve(path, size)
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)


def _reserve(path: Path, size: int) -> None:
    """Reserve the space of a file, because the process is killed if the disk of a mapped file is full."""
    try:
        with path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except (OSError, AttributeError) as error:  # not every system and file system can
                if getattr(error, "errno", None) in _FULL or shutil.disk_usage(path.parent).free < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in _FULL:
            raise
        raise RunError(
            f"{path.parent}: the disk is full. What frozen layers make of the panels needs {size / 1e6:,.1f} MB there. "
            "Make room and run the same command again."
        ) from error


class UpperLayers(nn.Module):
    """The trained layers of a network above a frozen part, or its head alone; it shares their parameters.

    Its input are the activations of the frozen part.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, network: Any, layers: nn.Module | None = None) -> None:
        super().__init__()
        self.name = network.name
        self.body, self.head = layers or nn.Identity(), network.head
        self.bags = network.pooling is not None
        self.is_linear = layers is None and not self.bags
        self.computes = layers is not None
        self.register_buffer("target_mean", network.target_mean)
        self.register_buffer("target_std", network.target_std)

    def forward(self, activations: Tensor, occupied: Tensor | None = None) -> Tensor:
        features = activations
        if self.computes:
            if self.bags:
                # without gradients, tiles need not be in memory at once
                at_once = torch.is_grad_enabled()
                features = of_tiles(self.body, features, form_of(self.body), occupied, at_once=at_once)
            else:
                features = self.body(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()) * self.target_std + self.target_mean


def activations(
    frozen: nn.Module,
    data: FeatureData | PanelDataset,
    *,
    layers: Callable[[Tensor], Tensor],
    bf16: bool,
    form: torch.memory_format,
    path: Path,
    buffer: Buffer,
) -> FeatureData:
    """The outputs of frozen `layers` of a module in eval mode for every panel: (P, ...), `bfloat16` with `bf16`.

    For bags it is (P, K, ...), with NaN if a bag has fewer than K tiles.
    """
    frozen.eval()
    device = next(frozen.parameters()).device
    slots, owner = data.views()
    result: Tensor | None = None
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        if data.bags:
            bag_activations = encode_bags(
                layers, data, slots, device, form, empty=lambda shape, dtype: buffer.empty(shape, dtype, path)
            )
            return FeatureData(bag_activations, data.truth, data.names, owner, data.bag)
        for start in range(0, len(slots), CHUNK):
            computed = layers(data.plain_batch(slots[start : start + CHUNK], device).to(memory_format=form)).cpu()
            if result is None:
                result = _laid_out(buffer, (len(slots), *computed.shape[1:]), computed.dtype, path, form)
            result[start : start + len(computed)] = computed
    assert result is not None
    return FeatureData(result, data.truth, data.names, owner)


def _laid_out(
    buffer: Buffer, shape: tuple[int, ...], dtype: torch.dtype, path: Path, form: torch.memory_format
) -> Tensor:
    """An empty tensor, whose maps are in the memory format of the trained layers, so that no batch is rearranged."""
    if len(shape) != 4 or form != torch.channels_last:
        return buffer.empty(shape, dtype, path)
    count, channels, height, width = shape
    return buffer.empty((count, height, width, channels), dtype, path).permute(0, 3, 1, 2)


def features(network: Network, data: PanelDataset, *, batch: int) -> Tensor:
    """The body's features of every panel, without augmentation: (P, width), the mean over views; bags (P, K, width)."""
    network.eval()
    slots, owner = data.views()
    device, form = network.mean.device, form_of(network.body)
    with torch.inference_mode():
        if data.bags:
            return encode_bags(network.features, data, slots, device, form).float().cpu().clone()
        size = data.eval_batch_size(batch, device)
        values = in_batches(lambda views: network.features(data.plain_batch(views, device)).float(), slots, size)
    return mean_over_views([(values, owner)], len(data)).clone()


# The panels of a block, and the views of a block whose pixels are in memory at once.
BLOCK, VIEWS = 128, 16
# The locks of a store: two processes wait for each other if they compute blocks with the same lock.
LOCKS = 64
# The size of the store in GB.
VARIABLE = "CASEWISE_FEATURE_CACHE"


@dataclass(frozen=True)
class FeatureStore:
    """A folder of values by address; the least recently used ones are removed above `limit` bytes; 0 stores nothing.

    A damaged or missing file is computed again. If the folder cannot be written, values are computed and not stored.
    """

    folder: Path
    limit: int = 4 * 2**30

    @classmethod
    def of_user(cls) -> FeatureStore:
        """The store in casewise's cache; `CASEWISE_FEATURE_CACHE` states its size in GB.

        Raises:
            CasewiseError: the variable is not a number of at least 0.
        """
        text = os.environ.get(VARIABLE) or "4"
        if not re.fullmatch(r"\d{1,9}(\.\d*)?", text):
            raise CasewiseError(f"{VARIABLE}: must be a number of GB of at least 0, such as 4, not {text[:80]!r}.")
        return cls(cache_folder() / "features", int(float(text) * 2**30))

    def for_study(self, size: int) -> FeatureStore:
        """The store with room for the values of a study, which has this size, if the user states no limit."""
        if os.environ.get(VARIABLE) or size <= self.limit:
            return self
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            return replace(self, limit=max(self.limit, min(size, shutil.disk_usage(self.folder).free // 2)))
        return self

    def step(self, address: str | None, compute: Callable[[], Tensor], *, wait: float = -1) -> Tensor | None:
        """The values at an address, computed and stored if they are not there; None if another process computes them.

        Args:
            address: None: they are computed and not stored.
            wait: the seconds to wait for another process; -1: until it has finished.
        """
        if address is None or not self.limit:
            return compute()
        if (values := self.read(address)) is not None:
            return values
        try:
            lock = self.locked(address)
            lock.acquire(timeout=wait)
        except Timeout:
            return None
        except (OSError, NotImplementedError):  # a folder that cannot be written, or without locks
            return compute()
        with lock:
            if (values := self.read(address)) is None:
                values = compute().cpu()
                self.write(address, values)
        return values

    def read(self, address: str) -> Tensor | None:
        """The values at this address; None if they are not stored or damaged."""
        path = self._path(address)
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                values: Tensor = file.get_tensor("features")
                checksum = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError):  # it is missing or damaged
            return None
        if checksum != digest([values]):
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
                save_file({"features": values}, temporary, metadata={"sha256": digest([values])})
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
        """Remove the least recently used files above the limit, and before them what killed processes left behind."""
        left = self.limit
        files = {path: path.stat() for path in self.folder.glob("*/*")}
        newest = sorted(files, key=lambda path: (path.name.startswith(TEMPORARY), -files[path].st_mtime_ns))
        for path in newest:
            left -= files[path].st_size
            if left < 0:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class SharedFeatures:
    """The panels of a study as one learner of one fold reads them; features are shared by content.

    Attributes:
        panels: all panels.
        sides: subsets of them with their rows, such as training and early stopping.
        identity: a text that determines the panels' pixels, so that they are hashed once in a process; otherwise empty.
        store: where features are kept.
    """

    panels: PanelDataset
    sides: tuple[tuple[PanelDataset, Sequence[int]], ...]
    identity: str
    store: FeatureStore
    _whole: dict[str, Tensor] = field(default_factory=dict, repr=False)  # the last values, of all panels

    def of(
        self,
        data: PanelDataset,
        layers: nn.Module,
        compute: Callable[[PanelDataset], Tensor],
        how: Mapping[str, object],
        *,
        empty: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The values of `compute` for each panel of `data`, (P, ...): all panels or one of the sides.

        Other data than these are computed and not shared.

        Args:
            layers: what is computed, in eval mode and without gradients. Only they and the panels decide the values.
            how: precision and other facts that decide the bits, as plain values.
            empty: creates the tensor to fill, given its shape and `dtype`. Without it the values of all panels are in
                memory, where the next side finds them.
        """
        rows = self._rows(data)
        if rows is None:
            return compute(data)
        facts = _facts(layers, how)
        if empty is not None:
            return self._computed(rows, facts, compute, empty)
        if facts not in self._whole:
            self._whole.clear()
            self._whole[facts] = self._computed(range(len(self.panels)), facts, compute, torch.empty)
        whole = self._whole[facts]
        return whole if data is self.panels else whole[torch.as_tensor(rows)]

    def reader(
        self, layers: nn.Module, compute: Callable[[PanelDataset], Tensor], how: Mapping[str, object]
    ) -> Callable[[Sequence[int]], Tensor]:
        """A function that gives the values of some panels by their rows; only these are in memory. See `of`."""
        facts = _facts(layers, how)
        return lambda rows: self._computed(rows, facts, compute, torch.empty)

    def _computed(
        self, rows: Sequence[int], facts: str, compute: Callable[[PanelDataset], Tensor], empty: Callable[..., Tensor]
    ) -> Tensor:
        """The values of some rows, block by block."""
        numbers = torch.as_tensor(rows)
        blocks, sizes = torch.unique(numbers // BLOCK, return_counts=True)
        places = torch.argsort(numbers // BLOCK, stable=True).split(sizes.tolist())
        waiting = dict(zip(blocks.tolist(), places, strict=True))
        hashes = _hashes_of_blocks(self) if self.store.limit else None
        result: Tensor | None = None
        for wait in (0, -1):  # first those that no other process is computing, then the rest
            for block in list(waiting):
                address = digest([hashes[block], facts]) if hashes else None
                values = self.store.step(address, partial(compute, self.block(block)), wait=wait)
                if values is None:
                    continue
                inside = waiting.pop(block)
                if result is None:
                    result = empty((len(rows), *values.shape[1:]), dtype=values.dtype)
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


def _facts(layers: nn.Module, how: Mapping[str, object]) -> str:
    """What decides the values besides the panels, as a text."""
    return json.dumps([digest(_deciding(layers)), how, machine(layers)], sort_keys=True)


# The bytes that this process has written to a store since it was searched for files to remove.
_unchecked: dict[Path, int] = {}


# The hashes of blocks of panels by what decides their pixels.
_hashes: dict[str, tuple[str, ...]] = {}


def _hashes_of_blocks(shared: SharedFeatures) -> tuple[str, ...]:
    """The hash of the pixels of each block of panels; computed once in this process if panels have an identity."""
    key = digest([str(shared.store.folder), shared.identity, *shared.panels.views(), str(len(shared.panels))])
    hashes = _hashes.get(key) if shared.identity else None
    if hashes is None:
        count = -(-len(shared.panels) // BLOCK)
        _hashes[key] = hashes = tuple(digest(_pixels(shared.block(number))) for number in range(count))
    return hashes


def _pixels(data: PanelDataset) -> Iterator[str | Tensor]:
    """The pixels of every view of some panels, and the panel of each view."""
    slots, owner = data.views()
    yield from (str(len(data)), owner)
    for views in slots.split(VIEWS):
        yield data.plain_batch(views, torch.device("cpu"))


def _deciding(layers: nn.Module) -> Iterator[str | Tensor]:
    """The weights, statistics and settings of layers, without a network's head and its targets."""
    body = layers
    if isinstance(layers, Network):
        body = layers.body
        yield f"{layers.name} {layers.read_map} {layers.map_cells} {layers.fusion}"
        yield from (layers.mean, layers.std)
    yield repr(body)
    for name, tensor in (*body.named_parameters(), *body.named_buffers()):
        yield from (name, tensor)


def digest(values: Iterable[str | Tensor]) -> str:
    """A hash of texts and tensors."""
    hashed: Any = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {list(value.shape)}".encode())
            hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            hashed.update(f"{len(value)} {value}".encode())
    return hashed.hexdigest()


def machine(layers: nn.Module) -> list[object]:
    """Facts that decide the last bits besides the values: versions, processor, number of threads."""
    device = next((tensor.device for tensor in layers.state_dict().values()), torch.device("cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return [*_versions(), device.type, name, torch.get_num_threads(), torch.backends.mkldnn.enabled]


@lru_cache(maxsize=1)
def _versions() -> tuple[str, ...]:
    """The processor, the versions of the libraries, and a hash of casewise's own code."""
    sources = (path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.parent.rglob("*.py")))
    versions = [
        f"{package} {version(package)}" for package in ("torch", *libraries(), "numpy", "scipy", "scikit-learn")
    ]
    return (cpu_name(), platform.machine(), torch.backends.cpu.get_cpu_capability(), digest(sources), *versions)
