"""How networks and baselines are trained, up to which layer a network is frozen, and settings of the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from casewise.errors import StudyError, cut, nearest
from casewise.study.images import AUGMENTATION_KEYS, Panels
from casewise.study.model import Fraction, StudyModel, refuse, with_keys_of_plugins
from casewise.study.yaml_text import Values

FREEZE_FORMS = "none, all, `10 layers`, `11 blocks`, `30%` or the name of a module such as features.6"


@dataclass(frozen=True)
class FreezePoint:
    """The layers of a body, from the input on, that are not trained.

    `layers` counts convolutions and linear layers, `blocks` a network's own blocks (`Network.blocks`), `percent` is of
    the body's weights, `name` the path of a module within the body, which is frozen as well.

    >>> str(read_freeze_point(10)), str(read_freeze_point("30%")), str(read_freeze_point("features.6"))
    ('10 layers', '30%', 'features.6')
    """

    kind: Literal["none", "all", "layers", "blocks", "percent", "name"]
    count: int = 0
    name: str = ""

    def __str__(self) -> str:
        if self.kind in ("layers", "blocks"):
            return f"{self.count} {self.kind if self.count > 1 else self.kind[:-1]}"
        return f"{self.count}%" if self.kind == "percent" else self.name or self.kind


def read_freeze_point(value: Any, source: str = "freeze") -> FreezePoint:
    """Read a freeze point as a study states it: text, or a number of layers.

    Raises:
        StudyError: the value is none of these; the message names the allowed forms.
    """
    if isinstance(value, FreezePoint):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise StudyError(f"{source}: must be {FREEZE_FORMS}, got {cut(value)}.")
    if isinstance(value, int):
        return _counted(value, "layers", source)
    text = value.strip()
    if text.lower() in ("none", "all", "body"):
        return FreezePoint("none" if text.lower() == "none" else "all")
    if match := re.fullmatch(r"(-?\d{1,9})\s*(layers?|blocks?)?", text):
        return _counted(int(match[1]), "blocks" if (match[2] or "").startswith("block") else "layers", source)
    if match := re.fullmatch(r"([1-9]\d?)\s*%", text):
        return FreezePoint("percent", count=int(match[1]))
    if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", text):
        return FreezePoint("name", name=text.removeprefix("body."))
    nearest_form = nearest(text, ("none", "all"))
    hint = nearest(text.split()[-1], ("layers", "blocks")) if re.match(r"\d+\s", text) else nearest_form
    raise StudyError(f"{source}: must be {FREEZE_FORMS}, got {cut(value)}.{hint}")


def _counted(count: int, kind: Literal["layers", "blocks"], source: str) -> FreezePoint:
    if count < 0:
        raise StudyError(f"{source}: {count} {kind} cannot be frozen; give 0 or more, or one of {FREEZE_FORMS}.")
    return FreezePoint(kind, count=count) if count else FreezePoint("none")


Schedule = Literal["plateau", "cosine", "one-cycle", "constant"]
BatchNorm = Literal["update", "keep_statistics"]


class Plateau(StudyModel):
    """Reduce the learning rate when the validation loss no longer falls."""

    factor: float = Field(0.1, gt=0, lt=1)
    """Factor applied to the learning rate."""
    patience: int = Field(10, ge=0)
    """Epochs without a decrease before the factor is applied."""
    threshold: float = Field(1e-4, ge=0)
    """Smallest relative decrease that counts."""


class EarlyStopping(StudyModel):
    """Early stopping on an inner set of subjects, on the fold itself, or none."""

    patience: int = Field(50, ge=1)
    """Epochs without a better loss before training ends. The best epoch is kept."""
    monitor: Literal["inner", "fold", "none"] = "inner"
    """`inner`: subjects set aside within the training folds. `fold`: the fold that is predicted afterwards, so that
    out-of-fold figures are too optimistic; with `split.validation`, the validation set, and this is then the default.
    `none`: all epochs are trained, and the last one is kept."""
    val_fraction: Fraction = 0.15
    """Fraction of the training subjects that `inner` sets aside."""


def _checked(section: type[StudyModel], values: Values, allowed: Sequence[str], defect: str, start: str = "") -> Values:
    """Some of the `allowed` keys of a section with their parsed values; an error begins with `start`."""
    for name in values:
        if name not in allowed:
            options = f"there are {', '.join(allowed)}.{nearest(name, allowed)}"
            raise ValueError(f"{start}{cut(name)} {defect}; {options}")
    try:
        parsed = section.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        text = first["msg"].removeprefix("Value error, ")
        message = f"{start}{first['loc'][0]}: {text[0].lower() + text[1:]}, found {cut(first['input'])}"
        raise ValueError(message) from None
    return {name: getattr(parsed, name) for name in values}


class Phase(StudyModel):
    """One phase of training: its epochs, the frozen part of the network, and what differs from the recipe."""

    epochs: int = Field(ge=1)
    """Epochs of this phase; all of them are trained, unless `recipe.early_stopping` ends it."""
    freeze: str = "none"
    """What is frozen: `none`; `all` (everything but the head); `10 layers` or `11 blocks` from the input on; `30%` of
    the body's weights; or the name of a module, with everything before it. Frozen layers keep their running
    statistics."""
    lr: float | None = Field(None, gt=0)
    """Learning rate of this phase. Default: the recipe's."""
    schedule: Schedule | None = None
    """Schedule of this phase. Default: the recipe's."""
    batch_norm: BatchNorm | None = None
    """As in the recipe."""
    variations: Values = {}
    """Augmentation keys of `panels` that differ in this phase, such as `{flip: both, rotate: 20}`."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _check_freeze(cls, value: Any) -> str:
        try:
            return str(read_freeze_point(value))
        except StudyError as error:
            # The value found is appended to every message in the same way, so it is left out here.
            message = str(error).removeprefix("freeze: ").replace(f", got {cut(value)}", "").rstrip(".")
            raise ValueError(re.sub(r"\. Did you mean (.*)\?$", r" (did you mean \1?)", message)) from None

    @field_validator("variations")
    @classmethod
    def _check_variations(cls, value: Values) -> Values:
        return _checked(Panels, value, AUGMENTATION_KEYS, "is not an augmentation key of panels")


# Settings of every planned recipe that states no others; the rest depends on the images
# (`casewise.pipeline.recipe_plan`), as do the epochs of its phase.
PLANNED: Mapping[str, object] = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "one-cycle",
    "batch_size": 16,
    "dropout": 0.2,
    "clip_gradients": 1.0,
    "early_stopping": EarlyStopping(monitor="none"),
    "phases": [Phase(epochs=4)],
}


# Settings that may differ between networks: the settings of a step. Others decide which steps there are.
OF_NETWORKS = (
    *("optimizer", "lr", "momentum", "weight_decay", "head_lr", "dropout", "clip_gradients", "batch_norm_momentum"),
    "label_smoothing",
)


class Recipe(StudyModel):
    """How a network is trained. The phases are trained one after another, each continuing from the one before."""

    auto: bool = False
    """Whether settings that are not stated are [planned](explanation-plan.md) from the images and `budget`; `recipe:
    auto` plans all of them. Default: `true` in a study that does not state `backbones`."""
    meant_for: Literal["same_sources", "other_sources"] = "same_sources"
    """Whose cases the models shall predict. `other_sources`: cases from hospitals, devices or collections outside the
    study; it needs `split.leave_out`, and [weights and figures follow the
    sources](howto-external.md#models-for-other-sources)."""
    loss: Literal["mse", "huber", "l1"] = "mse"
    """Loss over standardised numbers: mean squared error, smooth L1 (`huber`) or absolute error. Classes use
    cross-entropy; grades use a chain of binary cross-entropies."""
    mask_loss: float = Field(1.0, gt=0)
    """Weight of the loss of masks (`images.mask`): mean cross-entropy and Dice loss of the known pixels of a batch."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Fraction of the label that is spread evenly over the classes in training. Not for grades."""
    mixup: float = Field(0.0, ge=0, le=10)
    """Each panel of a batch is mixed with another one, and the loss weighs both labels by the same shares, drawn
    from a beta distribution with both parameters `mixup`; 0.2 is usual, 0 mixes nothing. Not for bags, masks
    and `volumes: {missing: mask}`. Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018."""
    imbalance: Literal["none", "weights", "sampling"] = "none"
    """For classes and grades. `weights`: every class has the same total weight in the loss. `sampling`: panels are
    drawn with replacement, so that every class of the primary outcome is drawn equally often."""
    optimizer: Literal["sgd", "adam", "adamw", "radam"] = "sgd"
    """Optimiser. `radam` is Rectified Adam with the weight decay of AdamW."""
    lr: float = Field(0.01, gt=0)
    """Learning rate at the start; with `one-cycle`, the highest one."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`; the other optimisers do not use it."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    schedule: Schedule = "plateau"
    """`plateau`: the learning rate falls when the validation loss no longer does. `cosine`: it falls as half a cosine
    over `epochs`. `one-cycle`: it rises for a quarter of the steps and then falls. `constant`: it stays the same."""
    warmup: int = Field(0, ge=0)
    """Number of epochs over which the learning rate rises before it falls, with `schedule: cosine` only; fewer than
    `epochs`, and than the epochs of each phase with this schedule."""
    plateau: Plateau = Plateau()
    """Settings of `schedule: plateau`."""
    batch_size: int = Field(16, ge=2)
    """Panels in a batch. A last batch with one panel is joined to the one before it."""
    epochs: int = Field(1000, ge=1)
    """Largest number of epochs."""
    early_stopping: EarlyStopping = EarlyStopping()
    """When training stops, and which subjects determine this."""
    tuning: Literal["full", "head_only"] = "full"
    """Which layers are trained: all, or only the head on features computed once (`head_only`)."""
    batch_norm: BatchNorm = "update"
    """`keep_statistics`: keep all running statistics of the first weights; `update`: only in frozen layers."""
    head: Literal["random", "probe", "fastai"] = "random"
    """`random`: a linear layer. `probe`: the same, which starts as a linear model of the initial features (ridge or
    logistic). `fastai`: the maximum and the mean over the last map, batch norm, dropout of half of `dropout`, 512
    units with ReLU, batch norm, `dropout` (default 0.5), and a linear layer without bias."""
    head_lr: float = Field(1.0, gt=0)
    """Factor on the head's learning rate."""
    batch_norm_momentum: float | None = Field(None, gt=0, le=1)
    """Momentum of the running statistics. Default: the library's, too small for random weights in MNASNet
    (0.0003) and MobileNetV3 (0.01): use 0.1."""
    pool: Literal["average", "map"] = "average"
    """What the head receives. `average`: the mean over the last map, which does not say where things are. `map`: the
    means over a grid of 3 × 3 of the widest map at stride 16."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout before the head, and of the dropout layers of the library's network. Default: the library's layers, and
    no other."""
    clip_gradients: float | None = Field(None, gt=0)
    """Largest norm of the gradient of a step; a larger one is scaled down to it. Default: no limit."""
    scaling: Literal["library", "symmetric"] = "library"
    """Scale of pixels: as the backbone's published weights expect (`library`), or −1 to 1 (`symmetric`)."""
    phases: list[Phase] = []
    """Phases of training, one after another. Default: one phase of `epochs`."""
    networks: dict[str, Values] = {}
    """Settings of single networks that differ: `{squeezenet1_1: {clip_gradients: 1}}`. They may be `optimizer`, `lr`,
    `momentum`, `weight_decay`, `head_lr`, `dropout`, `clip_gradients`, `batch_norm_momentum` and `label_smoothing`."""

    def of_network(self, name: str) -> Recipe:
        """The recipe of a network, with the settings that differ from the others'; `networks` is then empty."""
        return self.model_copy(update={**self.own_settings(name), "networks": {}})

    def own_settings(self, network: str) -> Values:
        """The settings of a network that differ from the others'."""
        return self.networks.get(network) or self.networks.get(network.partition("@")[0]) or {}

    @property
    def stated(self) -> Values:
        """The settings that the study states, as plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"auto"})

    @property
    def balance(self) -> str:
        """How rare classes are corrected: a value of `imbalance`, or `within_sources`."""
        return "within_sources" if self.meant_for == "other_sources" else self.imbalance

    @property
    def completed(self) -> Recipe:
        """A planned recipe with the settings that do not depend on the images; another one as it is."""
        planned = {name: value for name, value in PLANNED.items() if name not in self.model_fields_set}
        return self.model_copy(update=planned) if self.auto else self

    @property
    def rates_by_layer(self) -> bool:
        """Whether layers of the body have different learning rates."""
        return False

    @property
    def lengths(self) -> Mapping[str, int]:
        """By key the epochs of the phases, or of the training without phases."""
        phases = {f"epochs of phase {number}": phase.epochs for number, phase in enumerate(self.phases, 1)}
        return phases or {"epochs": self.epochs}

    @property
    def most_epochs(self) -> int:
        """The largest number of epochs of a network."""
        return sum(self.lengths.values())

    @property
    def keeps_statistics(self) -> bool:
        """Whether batch norms keep their running statistics in every phase."""
        stated = [phase.batch_norm or self.batch_norm for phase in self.phases] or [self.batch_norm]
        return set(stated) == {"keep_statistics"}

    @property
    def updates_statistics(self) -> bool:
        """Whether batch norms of the body update their running statistics in any part of the training."""
        frozen = self.tuning == "head_only" or (self.phases and all(phase.freeze == "all" for phase in self.phases))
        return not (frozen or self.keeps_statistics)

    @model_validator(mode="before")
    @classmethod
    def _planned(cls, values: Any) -> Any:
        return {"auto": True} if values == "auto" else values

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, value: dict[str, Values]) -> dict[str, Values]:
        checked = {}
        for network, settings in value.items():
            start = f"{cut(network)}: "
            checked[network] = _checked(cls, settings, OF_NETWORKS, "cannot differ between networks", start)
        return checked

    @model_validator(mode="after")
    def _check_training(self) -> Recipe:
        completed, planned = self.completed, "; a planned recipe has phases" if self.auto else ""
        phases, monitor = completed.phases, completed.early_stopping.monitor
        plateau = (monitor, completed.schedule) == ("none", "plateau")
        # the saved study of a run states every default
        own_epochs = self.phases and "epochs" in self.model_fields_set and self.epochs != 1000
        problems: dict[str, object] = {
            f"tuning: {self.tuning} decides which layers are trained; leave it out, or the phases{planned}": phases
            and self.tuning != "full",
            "epochs: with phases, every phase states its own; leave out recipe.epochs": own_epochs,
            "pool: map: head: fastai receives the last map; leave out one of the two": self.head == "fastai"
            and self.pool == "map",
            "schedule: plateau needs a validation loss; with early_stopping.monitor none use cosine or "
            "constant": plateau,
        }
        refuse(problems)
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> Recipe:
        if not self.warmup:
            return self
        schedules = [phase.schedule or self.completed.schedule for phase in self.phases] or [self.completed.schedule]
        lengths = zip(self.lengths.items(), schedules, strict=True)
        cosines = [length for length, schedule in lengths if schedule == "cosine"]
        if not cosines:
            raise ValueError("warmup: needs schedule: cosine; write it, or leave warmup out")
        for name, epochs in cosines:
            if self.warmup >= epochs:
                raise ValueError(f"warmup: {self.warmup} epochs must be fewer than the {name}, {epochs}")
        return self


if not TYPE_CHECKING:  # type checkers see the keys of the core
    Recipe = with_keys_of_plugins(Recipe, "recipe")


class Baselines(StudyModel):
    """Simple models on pixels and on the features of a pretrained network, fitted in every study.

    Which features are used and their penalty are chosen by inner folds of the training subjects.
    """

    off: str = ""
    """The reason for which there are none; the report prints it."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if values == "auto":
            return {}
        if isinstance(values, str) or values in (None, False, True):
            raise ValueError("write `auto`, or `{off: the reason}`, which the report prints")
        return values


class NetworkPlan(StudyModel):
    """How one network is computed. The bits of a trained network depend on all settings."""

    device: Literal["cpu", "cuda"] = "cpu"
    """The device."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the computation in training."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Memory layout of tensors."""
    threads: int = Field(1, ge=1)
    """Threads of the network in training."""
    fused: bool = False
    """Whether the optimiser updates all weights in one operation, as on a GPU."""


class Compute(StudyModel):
    """Settings that depend on the machine. `auto` follows from the device, never from a measurement of time."""

    plan: dict[str, NetworkPlan] | Path | None = None
    """A compute plan to repeat, for the same bits on the same kind of machine: a run folder, or
    for each network `device`, `precision`, `memory_format`, `threads` and `fused`."""

    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Networks trained in parallel, as `--jobs`; `auto`: as many as cores and memory allow, or one on a GPU."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Threads of each network in training. `auto`: the number of cores divided by the number of networks in the run, at
    least one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bfloat16 on a GPU, fp32 on a CPU. Networks trained in bfloat16 give other predictions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a CUDA device if there is one."""
    save_every: float = Field(30.0, ge=0)
    """Seconds between the saved states of a network in training, from which an interrupted run continues; 0: epochs."""

    @model_validator(mode="after")
    def _check_plan(self) -> Compute:
        stated = [name for name in ("threads", "precision", "device") if getattr(self, name) != "auto"]
        if self.plan is not None and stated:
            raise ValueError(f"{stated[0]}: is part of `compute.plan`; state one of the two")
        return self
