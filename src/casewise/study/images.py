"""How images are prepared, which of them a network sees at once, how they are combined, and how panels are augmented.

Study files are read without torch, so this module does not import it: the functions of poolings receive tensors. Gated
attention follows Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from casewise.study.model import Level, StudyModel, parse_grid, refuse, with_keys_of_plugins
from casewise.study.yaml_text import Values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame
    from torch import Tensor

    from casewise.study.schema import Study


@dataclass(frozen=True)
class Pooling:
    """One way of combining the images of a case.

    Attributes:
        name: as in the study file.
        text: what it takes, in the reference of the study file.
        tiles: in the report, how the features of a bag are combined; empty if predictions are combined, not features.
        shares: the weight of each tile of a bag (B, K), summing to 1 and 0 in empty slots, from the module with the
            `layers`, the features (B, K, W) with 0 in empty slots, and which slots are occupied (B, K). None: equal.
        layers: linear layers that `shares` uses, by name: the numbers of inputs, 0 for W, and of outputs. The last one
            begins near zero; with it, all tiles must have almost the same weight.
        choose: what becomes of the predictions of single images: one row for each numbered unit, from the values of
            all images (N, V), the number of the unit of each, and the weight of each value in how conspicuous an image
            is, if it has one. None: their mean.
        chosen: what `choose` takes of the predictions, in a sentence.
    """

    name: str
    text: str
    tiles: str = ""
    shares: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    choose: Callable[[DataFrame, NDArray[Any], list[float] | None], NDArray[Any]] | None = None
    chosen: str = "mean"


def _gated_attention(layers: Any, filled: Tensor, occupied: Tensor) -> Tensor:
    gated: Tensor = layers.content(filled).tanh() * layers.gate(filled).sigmoid()
    scores: Tensor = layers.score(gated).squeeze(-1)
    return scores.masked_fill(~occupied, -float("inf")).softmax(dim=1)


def _most_conspicuous(shown: DataFrame, numbers: NDArray[Any], weights: list[float] | None) -> NDArray[Any]:
    """The values of the image with the largest weighted value; without weights each value's own largest one."""
    if weights is None:
        return shown.groupby(numbers).max().to_numpy()
    rows = (shown @ weights).reset_index(drop=True).groupby(numbers).idxmax()
    return shown.to_numpy()[rows]


_ALL = (
    Pooling("mean", "the mean of their predictions"),
    Pooling(
        "max",
        "with `by: image`, the largest number, grade or probability of the positive class",
        choose=_most_conspicuous,
        chosen="largest",
    ),
    Pooling(
        "maps",
        "the mean of the features of all images, which keeps positions where `recipe.pool` is `map`",
        tiles="by the mean of their features",
    ),
    Pooling(
        "attention",
        "the mean of these features with learned weights",
        tiles="each with a learned weight",
        shares=_gated_attention,
        layers={"content": (0, 128), "gate": (0, 128), "score": (128, 1)},
    ),
)
POOLINGS = {pooling.name: pooling for pooling in _ALL}
# With these a network takes a bag of single images instead of a grid, and the features are combined.
BAGS = tuple(name for name, pooling in POOLINGS.items() if pooling.tiles)
# Those for which the tiles of a bag have different weights.
WEIGHTED = tuple(name for name, pooling in POOLINGS.items() if pooling.shares)

if TYPE_CHECKING:
    PoolingName: TypeAlias = str
else:
    PoolingName = Literal[tuple(POOLINGS)]


def _ordered(box: tuple[float, ...]) -> tuple[float, ...]:
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"{list(box)} is not a box: write [left, top, right, bottom], each from 0 to 1, in this order")
    if (right - left) * (bottom - top) > 0.5:
        raise ValueError(f"{list(box)} hides more than half of every image")
    return box


_Box = Annotated[tuple[float, float, float, float], AfterValidator(_ordered)]


_Label = Annotated[int, Field(ge=1, strict=True)]


class Images(StudyModel):
    """How each image becomes a square tile of `size` pixels."""

    size: int = Field(128, ge=16, le=1024)
    """Side of the square tile of an image, in pixels. For volumes, the side of a slice as the network sees it; the
    other settings of `images` but `mask_labels` then have no effect. A planned recipe has 224 for photographs and
    films, less for smaller ones and 384 for at most 1,000 images whose long sides have a median of 448 pixels or
    more."""
    fit: Literal["auto", "pad", "stretch"] = "auto"
    """How an image that is not square becomes a square tile. `pad`: bars fill the rest. `stretch`: it is stretched to
    the square. `auto`: [planned from the shapes](howto-photographs.md#images-that-are-not-square)."""
    padding: Literal["auto", "reflect", "black"] = "auto"
    """With `fit: pad`, what fills the bars: the image mirrored at its edge (`reflect`), or `black`; `auto`: `black` if
    all images have one shape, else `reflect`, with bars that vary in training."""
    channels: Literal["rgb", "grey"] = "rgb"
    """Colour, or one grey channel, which networks receive three times."""
    lesion: str | None = None
    """Column with the mask of each image's lesions, a path from `root`, against which explanations are measured. Not
    used in training. For volumes, see `volumes.lesion`."""
    mask: str | None = None
    """Column with a mask for each image, a path from `root`, from which [the map of a
    U-Net](howto-photographs.md#masks-in-training) is trained with the labels. An empty cell: this image has none."""
    mask_labels: list[_Label] | dict[str, list[_Label]] | None = None
    """Which labels of masks count, in each of `images.lesion`, `images.mask`, `audit.mask`, `volumes.mask` and
    `volumes.lesion`: a list, such as `[1, 2]`, or lists by column, such as `{lung_mask: [1, 2]}`. Default: [every label
    other than 0](howto-photographs.md#labels-of-masks)."""
    mask_overlays: bool | list[_Box] = False
    """Fill the places of [static marks](howto-audit.md#static-marks), such as logos or dates, with grey, in all images
    alike, in training and in use. `true`: the places that are found in the images outside the test set. Or boxes
    `[left, top, right, bottom]` as shares of the width and height."""
    store: Path | None = None
    """Folder of the tile store, to share it between runs. Default: `tiles` in the run folder."""

    def labels_in(self, column: str) -> list[int] | None:
        """The labels that count in the masks of a column; None for every label other than 0."""
        labels = self.mask_labels
        return labels.get(column) if isinstance(labels, dict) else labels

    @model_validator(mode="after")
    def _check_padding(self) -> Images:
        if self.padding != "auto" and self.fit == "stretch":
            raise ValueError(
                f"padding: {self.padding!r} fills the bars of `fit: pad`, and `fit: stretch` leaves no bars; write "
                "`fit: pad` to have them, else leave `padding` out (or write `padding: auto` if a preset states it)"
            )
        return self


class ModalitySettings(StudyModel):
    """The section of a study file with the settings of a modality, and what it decides for the rest of the study."""

    @property
    def folders_allowed(self) -> bool:
        """Whether a path of the table may be a folder, as of a DICOM series."""
        return False

    def landmarks_of_subjects(self, study: Study) -> bool:
        """Whether intensities are standardised by all images of a subject, each a case of its own."""
        return False

    def target_level(self, study: Study) -> Level | None:
        """The level of a target that states none; None for the panel's level."""
        return None

    def networks(self, backbones: Sequence[str]) -> list[str]:
        """The networks of a study with these backbones; the name before an `@` is the backbone."""
        return list(backbones)


FASTAI = "fastai-default"
# The default set of fastai's aug_transforms with the vertical flips of the published study.
AUGMENTATIONS: dict[str, Mapping[str, object]] = {
    FASTAI: {
        "rotate": 10,
        "flip": "dihedral",
        "zoom_in": 0.1,
        "perspective": 0.2,
        "brightness": 0.2,
        "contrast": 0.2,
        "probability": 0.75,
        "padding_mode": "reflect",
    }
}
FLIPS = {
    "horizontal": "horizontal flips",
    "vertical": "vertical flips",
    "both": "flips in both directions",
    "dihedral": "flips and quarter turns",
}
# Augmentations that are numbers, each switched off by 0.
STRENGTHS = ("rotate", "translate", "zoom", "zoom_in", "perspective", "brightness", "contrast")
# Augmentations that a phase of training may change.
AUGMENTATION_KEYS = ("shuffle", "rotate", "flip", *STRENGTHS[1:], "probability", "padding_mode")
# Default number of images of a case in a training step if they pass through the network one by one.
BAG_SIZE = 16


class Panels(StudyModel):
    """Which images a network sees at once, and their augmentation in training. Inference is deterministic.

    If several panels show one case, `pooling` combines their predictions. With a pooling of features, every image of a
    case passes through the network by itself, and `bag` of them are drawn in a training step.
    """

    by: Literal["region", "case", "image"] = "case"
    """One panel for each region of a case, for each case, or for each image."""
    grid: Annotated[str, BeforeValidator(parse_grid)] = "1x1"
    """Rows x columns of slots, `1x1` to `8x8`; empty ones are black. More images are sampled in training and averaged
    over several panels in prediction. For volumes, a square (`3x3`) of consecutive slices."""
    shuffle: bool = False
    """Permute the tiles of a panel in training."""
    rotate: Annotated[float, BeforeValidator(lambda v: 180.0 if v == "any" else v), Field(ge=0, le=180)] = 0.0
    """Largest rotation of each tile in training, in degrees to either side; `any` is 180."""
    flip: Literal["none", "horizontal", "vertical", "both", "dihedral"] = "none"
    """Mirror tiles in training, each with probability 0.5; for volumes, all slices of a panel together. `dihedral`:
    half of the tiles get one of the eight symmetries of a square, which include quarter turns."""
    quarter_turns: bool = False
    """For volumes: rotate a panel in training by 0, 90, 180 or 270 degrees, all slices and sequences together."""
    translate: float = Field(0.0, ge=0, le=0.5)
    """Largest translation of a tile in training, as a fraction of its side."""
    zoom: float = Field(0.0, ge=0, le=0.5)
    """Largest enlargement or reduction of a tile in training, as a fraction."""
    zoom_in: float = Field(0.0, ge=0, le=1)
    """Largest enlargement of a tile in training, as a fraction; it is never reduced."""
    perspective: float = Field(0.0, ge=0, le=0.5)
    """Largest displacement of a tile's corners in training by each of two tilts, as a fraction of half its side."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Half-width of the range around 1 of the brightness factor in training."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Half-width of the range around 1 of the contrast factor in training."""
    probability: float = Field(1.0, gt=0, le=1)
    """Fraction of tiles that each change concerns in training: rotation, translation, scale, each tilt of the
    perspective, brightness and contrast are drawn independently. Flips keep 0.5."""
    padding_mode: Literal["black", "reflect"] = "black"
    """What fills the area outside a rotated or translated tile: black, or the tile mirrored at its edge."""
    vary_shape: bool = True
    """Whether, in training, stretched images of different shapes are first cropped to an aspect ratio between the 1st
    and 99th percentile, and bars vary unless black, so that shape tells less of the source."""
    augmentation: Literal["as_stated", "fastai-default"] = "as_stated"
    """A named set of augmentations; keys stated in the study override it. `fastai-default`: rotate 10, flip dihedral,
    zoom_in 0.1, perspective 0.2, brightness 0.2, contrast 0.2, probability 0.75, padding_mode reflect; as in fastai,
    the enlarged part lies anywhere in the tile, and brightness and contrast change log odds."""
    pooling: PoolingName = Field(
        "mean",
        description="How several panels of one case are combined. "
        + " ".join(f"`{name}`: {pooling.text}." for name, pooling in POOLINGS.items()),
    )
    bag: int = Field(BAG_SIZE, ge=2, le=1024)
    """With a pooling of features, how many images of a case are drawn in a training step."""

    @model_validator(mode="before")
    @classmethod
    def _named_augmentation(cls, values: Any) -> Any:
        """Fill in the keys of a named set that are not stated."""
        name = values.get("augmentation") if isinstance(values, dict) else None
        return {**AUGMENTATIONS[name], **values} if isinstance(name, str) and name in AUGMENTATIONS else values

    @model_validator(mode="after")
    def _check_pooling(self) -> Panels:
        pooling, own_bag = POOLINGS[self.pooling], not self.bags and self.bag != BAG_SIZE
        single = self.by == "image" or self.grid != "1x1" or self.shuffle
        problems: dict[str, object] = {
            f"pooling: {self.pooling} combines all images of a case or region; it needs `by: case` (or region), "
            "without grid or shuffle": self.bags and single,
            f"pooling: {self.pooling} takes the {pooling.chosen} prediction over single images; it needs `by: image`": (
                pooling.choose and self.by != "image"
            ),
            f"bag: only pooling: {' and '.join(BAGS)} draw bags, and pooling is {self.pooling}; leave out bag": own_bag,
        }
        refuse(problems)
        return self

    @property
    def rows(self) -> int:
        return int(self.grid.split("x")[0])

    @property
    def columns(self) -> int:
        return int(self.grid.split("x")[1])

    @property
    def varied(self) -> bool:
        """Whether training panels differ from epoch to epoch."""
        return (self.augmented or self.shuffle) and not self.fixed

    @property
    def augmented(self) -> bool:
        """Whether an augmentation changes tiles."""
        return self.flip != "none" or any(getattr(self, name) for name in STRENGTHS)

    @property
    def fixed(self) -> str:
        """In words the panels of training if they are the same in all epochs; empty if they vary."""
        return ""

    @property
    def of_bundle(self) -> Values:
        """The settings in a bundle, as plain values."""
        return self.model_dump(mode="json")

    @property
    def slots(self) -> int:
        """The number of tiles in a training panel, or in a bag."""
        return self.bag if self.bags else self.rows * self.columns

    @property
    def picture_grid(self) -> tuple[int, int]:
        """Rows and columns of the picture of a panel for people; a bag of slices is shown by nine of them."""
        return (3, 3) if self.bags else (self.rows, self.columns)

    @property
    def bags(self) -> bool:
        """Whether a network takes bags of single images instead of grids."""
        return self.pooling in BAGS


if not TYPE_CHECKING:  # type checkers see the keys of the core
    Panels = with_keys_of_plugins(Panels, "panels")
