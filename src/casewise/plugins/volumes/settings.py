"""The section `volumes` of a study file: which scans form a case, and how networks see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from casewise.errors import cut, nearest
from casewise.study.images import Images, ModalitySettings, Panels
from casewise.study.model import StudyModel, refuse
from casewise.study.sources import source_of

if TYPE_CHECKING:
    from casewise.study.schema import Study

FUSIONS = ("early", "late", "late-shared")
# With `missing: mask`, the probability that a sequence of a case is hidden in a training step; at least one remains.
# Without it, a token that no training case needs would never be trained.
SEQUENCE_DROPOUT = 0.2


class Volumes(ModalitySettings):
    """Which scans form a case, how their slices are prepared, and how a network combines several sequences.

    A row of the table names one scan, whose sequence is in the column `sequence`: a NIfTI file or a DICOM series. With
    `slice_index` a row names one slice image, and that column gives the order from the feet to the head.
    """

    sequences: list[str] = Field(min_length=1)
    """The sequences of a case in order, spelled as in the table's column: `[T1, T2]`. Rows with others are left out and
    counted. The first sequence of a case defines the grid onto which the others are resampled."""
    column: str = "sequence"
    """Column of the table that names the sequence of a row."""
    slice_index: str | None = None
    """For tables with one slice image in each row: the column with the position of the slice, rising from the feet to
    the head. Empty: a row is a whole scan."""
    pixel_mm: float = Field(1.0, gt=0)
    """For slice images (`slice_index`): distance between pixels in millimetres."""
    slice_mm: float = Field(1.0, gt=0)
    """For slice images (`slice_index`): distance between slices in millimetres."""
    in_plane_size: int = Field(256, ge=16, le=1024)
    """Side in pixels of the square axial plane to which every slice is resampled before anything is cropped."""
    bias: Literal["n4", "none"] = "n4"
    """`n4`: correct the bias field of every scan (N4, fitted on a coarser grid, applied at full resolution)."""
    smoothing: Literal["edge_preserving", "none"] = "edge_preserving"
    """`edge_preserving`: smooth every scan, but not across edges."""
    roi: Literal["mask", "centre", "none"] = "none"
    """The region of the plane that networks see, the same square for all slices of a case, with a side of `images.size`
    pixels: around a `mask`, which also selects the slices, the central pixels (`centre`, not resized), or the whole
    plane (`none`)."""
    margin: float = Field(10.0, ge=0, le=1000)
    """Millimetres added around the mask, in plane and between slices."""
    mask: str = "mask"
    """With `roi: mask`, the column that names a case's mask, a volume; one for each case."""
    lesion: str | None = None
    """Column that names a case's lesion mask, against which explanations are measured. Not used in training."""
    standardise: Literal["nyul", "none"] = "nyul"
    """`nyul`: bring the intensities of all scans of a sequence onto one scale by histogram landmarks, fitted on the
    training subjects of a network. `none`: scale each scan's own range to 0 to 1. Units are lost in both cases."""
    fusion: list[str] = Field(["early"], min_length=1)
    """How several sequences are combined; each way in a list trains a separate network (`BACKBONE@FUSION`): `early`
    (channels of the first layer), `late` (one body for each sequence, features concatenated before the head),
    `late-shared` (one body for all sequences), or the name of a single sequence. For a single backbone, write
    `BACKBONE@FUSION` in `backbones`."""
    missing: Literal["require", "drop", "mask"] = "require"
    """Cases that lack a sequence: `require` refuses them, `drop` leaves them out, both with a list; `mask` puts a
    learned token instead of the missing sequence, and hides one sequence in five in a training step. All `sequences`
    count, also for networks that use only one."""
    inference_windows: Literal["central", "all"] = "central"
    """A prediction uses the `central` window of a case's slices, or the mean over `all` windows. In training a window
    is drawn at random."""

    @field_validator("fusion", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_fusion(self) -> Volumes:
        for name, values in (("sequences", self.sequences), ("fusion", self.fusion)):
            duplicate = next((v for v, count in Counter(values).items() if count > 1), None)
            if duplicate:
                raise ValueError(f"{name}: {cut(duplicate)} is listed twice")
        allowed = (*FUSIONS, *self.sequences)
        for fusion in self.fusion:
            if fusion not in allowed:
                raise ValueError(
                    f"fusion: {cut(fusion)} is none of {', '.join(FUSIONS)}, and no sequence.{nearest(fusion, allowed)}"
                )
            if fusion in FUSIONS[1:] and len(self.sequences) < 2:
                raise ValueError(f"fusion: {cut(fusion)} combines several sequences, and the study has one")
        if any(name in FUSIONS or "@" in name for name in self.sequences):
            raise ValueError(f"sequences: {', '.join(FUSIONS)} and names with @ are reserved")
        return self

    @property
    def folders_allowed(self) -> bool:
        return self.slice_index is None

    def networks(self, backbones: Sequence[str]) -> list[str]:
        """Combine each backbone with each fusion, and a name written as `backbone@fusion` with that fusion alone.

        Where all networks use the same fusion, networks have the names of their backbones.

        >>> Volumes(sequences=["T1", "T2"], fusion=["early"]).networks(["vit", "resnet18", "vit@late"])
        ['vit@early', 'resnet18@early', 'vit@late']
        >>> Volumes(sequences=["T1", "T2"], fusion=["early"]).networks(["vit", "resnet18"])
        ['vit', 'resnet18']
        """
        stated = [name.partition("@") for name in backbones]
        pairs = [(name, fusion) for name, _, only in stated for fusion in ([only] if only else self.fusion)]
        several = len({fusion for _, fusion in pairs}) > 1
        return [f"{name}@{fusion}" if several else name for name, fusion in pairs]

    def slice_is_case(self, study: Study) -> bool:
        """Whether every slice of a subject's scan is a case of its own: its position is its visit."""
        return self.slice_index is not None and study.columns.get("visit", "visit") == self.slice_index

    def landmarks_of_subjects(self, study: Study) -> bool:
        return self.slice_is_case(study) and self.standardise != "none"

    def check_with(self, study: Study) -> None:
        """A panel of slices is a window of one case, and all its slices are augmented together."""
        panels, images = study.panels, study.images
        if study.regions:
            raise ValueError("regions: are of photographs; with `volumes`, give each scanned part its own visit")
        if panels.by != "case":
            raise ValueError(f"panels.by: {cut(panels.by)} is not for `volumes`; write `by: case`, a window of slices")
        if self.roi == "centre" and images.size > self.in_plane_size:
            sides = f"{images.size} pixels (images.size) are more than the plane's {self.in_plane_size}"
            raise ValueError(f"volumes.roi: the central {sides} (volumes.in_plane_size)")
        if panels.rows != panels.columns:
            raise ValueError(f"panels.grid: slices fill a square, such as 3x3; found {cut(panels.grid)}")
        kept = {name: getattr(panels, name) for name in ("grid", "flip", "quarter_turns", "bag")}
        allowed_panels = Panels(by="case", pooling="maps" if panels.pooling == "maps" else "mean", **kept)
        if key := _first_difference(panels, allowed_panels, list(Panels.model_fields)):
            raise ValueError(f"panels.{key}: slices are augmented by `flip` and `quarter_turns` only; leave {key} out")
        if panels.flip not in ("none", "horizontal"):
            raise ValueError(f"panels.flip: slices are mirrored left to right; write horizontal, not {panels.flip}")
        if images.lesion:
            raise ValueError("images.lesion: is for photographs; name the masks of scans as volumes.lesion")
        if key := _first_difference(images, Images(), ["channels", "fit", "padding", "store"]):
            raise ValueError(f"images.{key}: has no effect on slices; leave it out")
        if study.test_time_augmentation:
            raise ValueError("test_time_augmentation: mirrors a panel, which would reorder its slices; leave it out")
        allowed = [*(FUSIONS if len(self.sequences) > 1 else FUSIONS[:1]), *self.sequences]
        for name in study.backbones:
            backbone, at, fusion = name.partition("@")
            if at and (fusion not in allowed or not backbone):
                hint = nearest(fusion, allowed)
                raise ValueError(f"backbones: {cut(name)}: the name after @ is one of {', '.join(allowed)}.{hint}")
        duplicate = next((name for name, count in Counter(study.networks).items() if count > 1), None)
        if duplicate:
            raise ValueError(f"backbones: {cut(duplicate)} is listed twice")
        if not (name := reads_volumes(study.backbones)):
            return
        reads = f"backbones: {cut(name)} reads the slices of a panel as a volume"
        problems: dict[str, object] = {
            f"{reads}, and with `pooling: {panels.pooling}` slices are read one by one; write `pooling: mean` and a "
            "grid, such as 4x4 for 16 slices": panels.bags,
            f"{reads}, and a grid of 1x1 has one slice; write a larger `panels.grid`, such as 4x4 for 16 slices": (
                panels.slots == 1
            ),
            f"{reads}, and `recipe.pool: map` keeps the cells of a picture; use average": (study.recipe.pool == "map"),
            f"{reads}, and `recipe.head: fastai` is for pictures; use random or probe": study.recipe.head == "fastai",
        }
        refuse(problems)


class VolumesKeys(StudyModel):
    """The key `volumes`."""

    volumes: Volumes | None = None
    """Which [scans](howto-volumes.md) form a case, and how networks see them. Panels are then windows of a case's
    slices: `panels: {by: case, grid: 3x3}`. Needs `pip install 'casewise[volumes]'`."""

    @model_validator(mode="after")
    def _check_networks(self) -> VolumesKeys:
        name = "" if self.volumes else reads_volumes(cast("Study", self).backbones)
        refuse({f"backbones: {cut(name)} reads volumes, and this study has no `volumes`; use another network": name})
        return self


def volumes_of(study: Study) -> Volumes:
    """The study's settings of volumes, which it must have."""
    volumes: Volumes | None = study.key("volumes")
    assert volumes is not None
    return volumes


def reads_volumes(networks: Sequence[str]) -> str:
    """The first of these networks that reads slices as a volume; empty if none does."""
    return next((name for name in networks if source_of(name.partition("@")[0]).reads_volumes), "")


def _first_difference(section: StudyModel, other: StudyModel, keys: list[str]) -> str | None:
    return next((key for key in keys if getattr(section, key) != getattr(other, key)), None)
