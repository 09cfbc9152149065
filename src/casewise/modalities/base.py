"""What a modality provides, so that the rest of casewise never asks which one it is; nothing here imports torch.

A modality is one folder beside this file, or one class registered with `casewise.modalities.registry.register`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from casewise.run_folder import ImageFolder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import Tensor

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Panels, Study

# What a modality derived from training cases, as plain JSON values: it is saved with the trained network.
FittedPreprocessing = dict[str, Any]


@dataclass(frozen=True)
class Noun:
    """What one image of a modality is called.

    >>> Noun("slice", "slices").counted(1), Noun("slice", "slices").counted(2000)
    ('1 slice', '2,000 slices')
    """

    singular: str
    plural: str

    def counted(self, count: int) -> str:
        """A number of images in words."""
        return f"{count:,} {self.singular if count == 1 else self.plural}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture for people: (h, w) or (h, w, 3) `uint8`; `name` is empty where a case has one picture only."""

    name: str
    pixels: np.ndarray


class Overview(Protocol):
    """A large image from which tiles were cut, such as a whole slide.

    Attributes:
        size: width and height in pixels of the full resolution.
        boxes: (T, 3) x, y and side of each tile in these pixels; shares: (T,) how much of each is tissue.
        candidates: how many tiles there were to choose from.
        mask: (h, w) `bool`, where tissue was found; each of its pixels is `downsample` pixels wide.
        mpp, magnification, vendor: what the file says about itself.
    """

    @property
    def path(self) -> Path: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def boxes(self) -> np.ndarray: ...

    @property
    def shares(self) -> np.ndarray: ...

    @property
    def mask(self) -> np.ndarray: ...

    @property
    def downsample(self) -> float: ...

    @property
    def candidates(self) -> int: ...

    @property
    def mpp(self) -> float | None: ...

    @property
    def magnification(self) -> float | None: ...

    @property
    def vendor(self) -> str: ...

    def __len__(self) -> int: ...

    def read_picture(self) -> np.ndarray: ...


class StoreReference(Protocol):
    """Where prepared images lie; enough to open them in another process."""

    @property
    def folder(self) -> Path: ...

    @property
    def address(self) -> str: ...


@dataclass(frozen=True)
class StoreAddress:
    """A `StoreReference` by itself: the folder that networks read and a hash over what it holds."""

    folder: Path
    address: str


class ImageStore(StoreReference, Protocol):
    """Prepared images of a cohort. Networks read what lies in `folder`; audits and previews read `tiles`.

    Attributes:
        folder, address: where the input of networks lies, and a hash over it.
        tiles: a picture of each row of the cohort's images, (N, C, H, W) `uint8`.
        index: one row for each picture: path, sha256, bytes, mtime_ns, width, height, mode, format, tile_sha256.
    """

    @property
    def tiles(self) -> np.ndarray: ...

    @property
    def index(self) -> pd.DataFrame: ...

    def __len__(self) -> int: ...


class PanelDataset(Protocol):
    """Panels of some cases as a network sees them, with their labels.

    Attributes:
        truth: (P, T) `float32`, NaN where not recorded; (P, 0) where there are no labels.
        names: the case of each panel, for messages.
        settings: how panels are arranged and augmented.
        bags: whether a view is a bag of tiles that attention pools; `bag` is the size of the largest one, else 1.
        varied: whether training panels differ from epoch to epoch.
        subsampled: whether a training panel shows a random part of its images.
        copyable: whether fixed augmented copies of panels can be made.
    """

    @property
    def truth(self) -> Tensor: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def settings(self) -> Any: ...

    @property
    def bags(self) -> bool: ...

    @property
    def bag(self) -> int: ...

    @property
    def varied(self) -> bool: ...

    @property
    def subsampled(self) -> bool: ...

    @property
    def copyable(self) -> bool: ...

    def __len__(self) -> int: ...

    def subset(self, rows: Sequence[int]) -> PanelDataset: ...

    def with_variations(self, changes: Mapping[str, Any]) -> PanelDataset: ...

    def training_batch(
        self, rows: list[int], generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]: ...

    def views(self) -> tuple[Tensor, Tensor]: ...

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor: ...

    def slots_of(self, views: Tensor) -> Tensor:
        """Which image of the case (of volumes: which slice) each slot of these views shows: (V, K)."""
        ...

    def at_once(self, batch: int) -> int: ...


@dataclass(frozen=True, eq=False)
class PreparedCohort:
    """A cohort with its study and its prepared images."""

    study: Study
    cohort: Cohort
    folder: ImageFolder
    store: ImageStore


@dataclass(frozen=True)
class Start:
    """How a new study of some image files begins.

    Attributes:
        lines: lines of its study file with the settings of the modality.
        notes: sentences for the person who begins it.
        row: what a row of the table is, with an article.
    """

    study: Study
    lines: list[str]
    notes: list[str]
    row: str


@dataclass(frozen=True, eq=False)
class SlotMaps:
    """Saliency maps of one row of the cohort's panels, one for each slot of each view.

    Attributes:
        maps: (N, h, w) from 0 to 1.
        slots: (N,) the image, or the slice of the case, in each slot; −1 for an empty slot.
    """

    row: int
    maps: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True, eq=False)
class NativeMap:
    """A saliency map in the space of an original image.

    Attributes:
        values: of a photograph or slide (h, w) as `picture`, NaN where there is no map; of a volume (X, Y, Z).
        picture: the original, (h, w) or (h, w, 3) `uint8`; None for a volume.
        affine: (4, 4) from the voxels of a volume to mm (RAS).
    """

    name: str
    values: np.ndarray
    picture: np.ndarray | None = None
    affine: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Lesion:
    """The lesions of a case on what `SlotMaps.slots` count, (N, H, W) `bool`; `marked`: its masks mark any voxel."""

    mask: np.ndarray
    marked: bool

    @property
    def lost(self) -> bool:
        """Whether all marked voxels lie outside the slices."""
        return self.marked and not self.mask.any()


class Modality(Protocol):
    """How one kind of images becomes what networks see, and how maps return to it."""

    name: str

    def noun(self, study: Study) -> Noun:
        """What one image is called."""
        ...

    def start(self, files: Sequence[Path] | None, study: Study) -> Start:
        """How a study begins, with these image files of a folder or (None) without any.

        Raises:
            CasewiseError: tables cannot be made from folders of this modality's files.
        """
        ...

    def columns(self, study: Study) -> dict[str, str]:
        """Descriptions of the table's columns that are this modality's own."""
        ...

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        """The cohort of a table with what only this modality checks and adds, such as the tiles of slides.

        Without a folder nothing is written.

        Raises:
            CasewiseError: naming every problem.
        """
        ...

    def picture_noun(self, study: Study) -> Noun:
        """What a reader of the report calls one image."""
        ...

    def described(self, study: Study, images: pd.DataFrame) -> str:
        """How many images a cohort has (its table of images), in words."""
        ...

    def whole(self, study: Study, cohort: Cohort) -> Cohort:
        """The cohort as its table has it, one row an image file; splits are drawn from it."""
        ...

    def check_files(self, study: Study, cohort: Cohort, show: Show) -> None:
        """Check the files as far as this is quick, before anything is prepared."""
        ...

    def prepare(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles") -> ImageStore:
        """Prepare all images once, or open what is there; `step` names the progress bar.

        Raises:
            ImageError: with every image that cannot be prepared.
        """
        ...

    def audited(self, prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
        """What an audit compares: whole images, and one picture of each."""
        ...

    def pretraining_panels(self, study: Study) -> Panels:
        """The panels in which networks see a cohort that they are pretrained on: single images where possible."""
        ...

    def settings(self, study: Study) -> dict[str, Any]:
        """The settings of this modality that decide a network's weights, by name."""
        ...

    def facts(self, study: Study, network: str) -> dict[str, Any]:
        """Settings that differ for new cases from those of the study, plain JSON; {} where none does."""
        ...

    def network_options(self, study: Study, network: str) -> dict[str, Any]:
        """Arguments of `build_network` that follow from this modality."""
        ...

    def channels(self, study: Study, network: str) -> tuple[str, ...]:
        """The channels of a network that have saliency maps of their own; `("",)` for one without a name."""
        ...

    def fit(self, store: StoreReference, study: Study, rows: np.ndarray, network: str | None) -> FittedPreprocessing:
        """What preprocessing derives from the training cases: `rows` are numbers of the cohort's panels.

        With `network` it is what this network needs; without, what previews of all channels need.

        Raises:
            CasewiseError: nothing can be derived from these cases.
        """
        ...

    def dataset(
        self,
        store: StoreReference,
        study: Study,
        panels: pd.DataFrame,
        labels: np.ndarray | None,
        fitted: FittedPreprocessing,
    ) -> PanelDataset:
        """The panels of a cohort (any of its rows, all columns) as a network sees them.

        Args:
            labels: (P, T), NaN where not recorded; None where cases are only predicted.
            fitted: from `fit`, also of another cohort.
        """
        ...

    def report_facts(self, study: Study) -> dict[str, Any]:
        """What the report's templates choose by.

        `sliced`: panels show slices of one scan; `order`: the column that orders them; `late`: some network processes
        channels separately; `windowed`: audits see a part of each scan.
        """
        ...

    def picture(self, prepared: PreparedCohort, image: int) -> np.ndarray | None:
        """A picture of one row of the cohort's images for people, (h, w, 3) `uint8`."""
        ...

    def overview(self, prepared: PreparedCohort, path: str) -> Overview | None:
        """The image file from which several rows of the cohort were cut; None where rows are whole files."""
        ...

    def preview(self, prepared: PreparedCohort, row: int, fitted: FittedPreprocessing) -> list[Picture]:
        """What a network sees of the case of one panel row; empty where `picture` shows it already."""
        ...

    def to_native(self, prepared: PreparedCohort, maps: Sequence[SlotMaps], channel: str) -> list[NativeMap]:
        """The maps of one case for one of `channels` in the space of the original images."""
        ...

    def lesion_column(self, study: Study) -> str | None:
        """The column of the table with masks of lesions; None if the study names none."""
        ...

    def lesion(self, prepared: PreparedCohort, row: int) -> Lesion:
        """The lesions of the case of one panel row.

        Raises:
            ImageError: a mask cannot be read or does not fit its image.
        """
        ...
