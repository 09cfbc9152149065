"""The interface of modalities, which the rest of casewise uses without knowing the modality; torch is not imported.

Photographs are the modality of the core. Others come with plugins (`casewise.plugin.Plugin.modality`), or are classes
registered with `casewise.modalities.registry.register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from casewise.run_folder import ImageFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.cohort.folder_layout import Pattern
    from casewise.console import Show
    from casewise.modalities.dataset import PanelDataset
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Panels, Study

# Plain values, as JSON has them.
Facts: TypeAlias = dict[str, Any]
# Values that a modality derives from training cases; they are saved with the trained network.
FittedPreprocessing: TypeAlias = Facts


@dataclass(frozen=True)
class Noun:
    """The noun for one image of a modality.

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
    """A picture for people: (h, w) or (h, w, 3) `uint8`; `name` is empty if a case has only one picture."""

    name: str
    pixels: np.ndarray


class StoreReference(Protocol):
    """The location of prepared images, with which another process can open them."""

    @property
    def folder(self) -> Path: ...

    @property
    def address(self) -> str: ...


@dataclass(frozen=True)
class StoreAddress:
    """A `StoreReference` as a value: the folder that networks read, and a hash over its content."""

    folder: Path
    address: str


class ImageStore(StoreReference, Protocol):
    """Prepared images of a cohort. Networks read the files in `folder`; audits and previews read `tiles`.

    Attributes:
        folder, address: the folder with the input of networks, and a hash over this input.
        tiles: a picture of each row of the cohort's images, (N, C, H, W) `uint8`.
        index: one row for each picture: path, sha256, bytes, mtime_ns, ctime_ns, width, height, mode, format,
            tile_sha256.
    """

    @property
    def tiles(self) -> np.ndarray: ...

    @property
    def index(self) -> pd.DataFrame: ...

    def __len__(self) -> int: ...


# From the values that a network's preprocessing derived from its training cases to its input.
AlteredPanels = Callable[[FittedPreprocessing], "PanelDataset"]


@dataclass(frozen=True, eq=False)
class PreparedCohort:
    """A cohort with its study and its prepared images."""

    study: Study
    cohort: Cohort
    folder: ImageFolder
    store: ImageStore


@dataclass(frozen=True)
class Start:
    """The beginning of a new study of some image files.

    Attributes:
        lines: lines of the study file with the settings of the modality.
        notes: sentences for the user.
        row: the noun for what a row of the table describes.
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
        values: (h, w) as `picture` for a photograph or slide, NaN where there is no map; (X, Y, Z) for a volume.
        picture: the original, (h, w) or (h, w, 3) `uint8`; None for a volume.
        affine: (4, 4) from the voxels of a volume to mm (RAS).
        voxels: (X, Y, Z) the stored values of a volume; None for a photograph or slide.
    """

    name: str
    values: np.ndarray
    picture: np.ndarray | None = None
    affine: np.ndarray | None = None
    voxels: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        """Whether no pixel or voxel has any influence."""
        return not bool(np.nan_to_num(self.values).any())


# The anatomy is where evidence may lie, such as the lungs; a lesion is where it should lie. A segmentation is what a
# network's own map is trained on.
MaskMeaning = Literal["lesion", "segmentation", "anatomy"]


@dataclass(frozen=True, eq=False)
class CaseMask:
    """The masks of a case on its images or slices as networks see them.

    Attributes:
        numbers: (N,) the images or slices with a plane, as in `SlotMaps.slots`, ascending.
        planes: (N, H, W) `bool`.
        marked: a mask file has any marked pixel or voxel.
        content: (N, H, W) `bool`, false on padding; None without padding.
        labels: that occur in the mask files, marked or not.
    """

    numbers: np.ndarray
    planes: np.ndarray
    marked: bool
    content: np.ndarray | None = None
    labels: frozenset[int] = frozenset()

    @property
    def lost(self) -> bool:
        """Whether all marked voxels lie outside the slices."""
        return self.marked and not self.planes.any()

    def positions(self, slots: np.ndarray) -> np.ndarray:
        """The position of each slot's plane in `planes`; −1 for an empty slot, or an image without a plane."""
        positions = np.searchsorted(self.numbers, slots)
        padded = np.append(self.numbers, -2)
        return np.where(padded[positions] == slots, positions, -1)


class Modality(ABC):
    """How one kind of image becomes the input of networks, and how saliency maps are mapped back to it.

    A modality has a name and the abstract methods; the others have defaults for images that need nothing special.
    """

    name: str

    def noun(self, study: Study) -> Noun:
        """The noun for one image."""
        return Noun("image", "images")

    def start(self, files: Sequence[Path] | None, study: Study) -> Start:
        """The beginning of a study of these image files of a folder; None if there is no folder.

        Raises:
            CasewiseError: tables cannot be made from folders of this modality's files.
        """
        return Start(study, [], [], self.noun(study).singular)

    @abstractmethod
    def new_table(self, study: Study, paths: Sequence[Path], pattern: Pattern | None = None) -> pd.DataFrame:
        """The table of new cases in these image files and folders, with the study's names of columns.

        With a pattern, the paths below a folder state subject, visit, and region or sequence.

        Raises:
            CasewiseError: a folder has no images of this modality, or their subjects cannot be told apart.
        """

    def columns(self, study: Study) -> dict[str, str]:
        """Descriptions of the table columns that only this modality has."""
        return {}

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        """The cohort after the checks and additions of this modality, such as the tiles of slides.

        Without a folder nothing is written.

        Raises:
            CasewiseError: naming every problem.
        """
        return cohort

    def picture_noun(self, study: Study) -> Noun:
        """The noun for one image in the report."""
        return self.noun(study)

    def described(self, study: Study, images: pd.DataFrame) -> str:
        """The number of images of a cohort in words; `images` is its table of images."""
        return self.picture_noun(study).counted(len(images))

    def whole(self, study: Study, cohort: Cohort) -> Cohort:
        """The cohort with one row for each image file, as in its table; splits are drawn from it."""
        return cohort

    def check_files(self, study: Study, cohort: Cohort, show: Show) -> None:  # noqa: B027
        """Open every file and check it before the preparation; volumes by their headers."""

    def planned(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show) -> Study:
        """The study with everything that its images decide, without their labels; a planned study stays as it is."""
        return study

    @abstractmethod
    def prepare(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles") -> ImageStore:
        """Prepare all images once, or open the prepared ones; `step` names the progress bar.

        Raises:
            ImageError: with every image that cannot be prepared.
        """

    def estimated(self, study: Study, cohort: Cohort, store: ImageStore, show: Show) -> Cohort:
        """The cohort with the columns that the study names and that are estimated from its prepared images.

        Raises:
            CohortError: they cannot be estimated from these images.
        """
        return cohort

    def audited(self, prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
        """The input of the audit: whole images, and one picture of each."""
        from casewise.modalities.store.store import TileStore

        assert isinstance(prepared.store, TileStore)
        return prepared.cohort, prepared.store

    def pretraining_panels(self, study: Study) -> Panels:
        """The panels of a cohort for pretraining: single images where possible."""
        return study.panels

    def settings(self, study: Study) -> Facts:
        """The settings of this modality that affect a network's weights, by name."""
        return {}

    def facts(self, study: Study, network: str) -> Facts:
        """Settings of new cases that differ from the study's, as plain JSON; {} if there are none."""
        return {}

    def network_options(self, study: Study, network: str) -> Facts:
        """Arguments of `build_network` that this modality determines."""
        return {}

    def channels(self, study: Study, network: str) -> tuple[str, ...]:
        """The channels of a network that have separate saliency maps; `("",)` for a single unnamed one."""
        return ("",)

    def fit(self, store: StoreReference, study: Study, rows: np.ndarray, network: str | None) -> FittedPreprocessing:
        """Values that preprocessing derives from the training cases; `rows` are numbers of the cohort's panels.

        With `network` they are those that this network needs, else those that previews of all channels need.

        Raises:
            CasewiseError: nothing can be derived from these cases.
        """
        return {}

    @abstractmethod
    def dataset(
        self, store: StoreReference, study: Study, panels: pd.DataFrame, labels: np.ndarray | None, fitted: Facts
    ) -> PanelDataset:
        """The panels of a cohort (any of its rows, all columns) as the input of a network.

        Args:
            labels: (P, T), NaN where not recorded; None where cases are only predicted.
            fitted: from `fit`, also of another cohort.
        """

    def alterations(self, study: Study) -> tuple[str, ...]:
        """The names in `casewise.modalities.alterations.ALTERATIONS` that make sense for the study's images."""
        return ()

    def altered(self, prepared: PreparedCohort, rows: Sequence[int], alteration: str) -> AlteredPanels:
        """The panels `rows` (numbers of the cohort's panels) of altered images, prepared as in training, unlabelled.

        Args:
            alteration: one of `alterations`, or `UNALTERED` for the reference, which is read in the same way.

        Returns:
            A function from a network's `FittedPreprocessing` to its input.

        Raises:
            ImageError: an image cannot be read.
        """
        raise NotImplementedError

    def report_facts(self, study: Study) -> Facts:
        """The facts by which the report chooses its sections and words.

        `sliced`: panels show slices of one scan; `order`: the column that orders them; `windowed`: audits use a part
        of each scan.
        """
        return {"sliced": False, "order": None, "windowed": False}

    def position(self, study: Study) -> str:
        """The column with the position of a slice, if each slice of a scan is a case of its own; else empty.

        The position is then tested by the audit, because it may predict the label without a picture.
        """
        return ""

    def picture(self, prepared: PreparedCohort, image: int) -> np.ndarray | None:
        """A picture of one row of the cohort's images, (h, w, 3) `uint8`."""
        return None

    def overview(self, prepared: PreparedCohort, path: str) -> Any:
        """The image file from which several rows of the cohort were cut, as the modality's own sections of the report
        read it; None if rows are whole files."""
        return None

    def preview(self, prepared: PreparedCohort, row: int, fitted: FittedPreprocessing) -> list[Picture]:
        """The input of a network for the case of one panel row; empty if `picture` already shows it."""
        return []

    def to_native(
        self, prepared: PreparedCohort, maps: Sequence[SlotMaps], channel: str, *, side: int | None = None
    ) -> list[NativeMap]:
        """The maps of one case for one of `channels` in the space of the original images.

        Args:
            side: the longest side of pictures in pixels; by default the originals' side. Volumes are never reduced.
        """
        raise NotImplementedError

    def mask_columns(self, study: Study) -> dict[MaskMeaning, str]:
        """The columns with masks that the study names, by what they mark."""
        return {}

    def mask(self, prepared: PreparedCohort, row: int, meaning: MaskMeaning) -> CaseMask:
        """The masks of one of `mask_columns` for the case of one panel row.

        Raises:
            ImageError: a mask cannot be read or does not fit its image.
        """
        raise NotImplementedError
