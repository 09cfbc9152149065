"""Splitting a network at its freeze point: frozen layers, computed once for every panel, and the trained rest.

Only a chain can be split: a body whose modules run one after another, each on the output of the previous one. The
forward pass of a library's network is code, so this file lists the chains of supported architectures. Tests compare
them with the networks, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from torch import Tensor, nn

from casewise.errors import TrainingError
from casewise.models.backbones import Network
from casewise.models.freezing import frozen_end, frozen_module_names, last_frozen, layers
from casewise.models.layers import FoldingSequential
from casewise.study.recipe import FreezePoint


class Segment(nn.Sequential):
    """One side of a split network. `at` names the last module of the body before the split.

    Frozen modules stay in eval mode also after `train()`, as in the network itself. `reader` computes features by the
    segment if the head receives an inner map.
    """

    at: str = ""
    reader: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None

    def __init__(self, parts: Iterable[nn.Module], frozen_modules: Iterable[nn.Module]) -> None:
        super().__init__(*parts)
        module_ids = {id(module) for module in self.modules()}
        # in a tuple, so that they are not registered as submodules again
        self.frozen_eval = tuple(module for module in frozen_modules if id(module) in module_ids)

    def forward(self, values: Tensor) -> Tensor:
        return self.reader(values, super().forward) if self.reader else super().forward(values)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen_eval:
            module.training = False
        return self


class _Scaled(nn.Module):
    """Normalisation of panels in 0–1 for the first layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.register_buffer("mean", network.mean, persistent=False)
        self.register_buffer("std", network.std, persistent=False)

    def forward(self, panels: Tensor) -> Tensor:
        return (panels - self.mean) / self.std


class _MeanOfMap(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean([2, 3])


class _AsGoogLeNet(nn.Module):
    """GoogLeNet's transformation of its input."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.change = body._transform_input

    def forward(self, panels: Tensor) -> Tensor:
        return self.change(panels)


FLAT, POOLED, MEAN, RELU, CHANGED = "(flat)", "(pooled)", "(mean)", "(relu)", "(changed)"
_RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
_INCEPTIONS = [f"inception{key}" for key in ("4a", "4b", "4c", "4d", "4e")]
# The order in which the forward pass of each class runs its children, and the operations between them.
CHAINS: dict[tuple[str, str], list[str]] = {
    ("casewise", "PlainNetwork"): ["features", "pool", FLAT, "classifier"],
    **{
        ("torchvision", name): ["features", "avgpool", FLAT, "classifier"]
        for name in ("AlexNet", "VGG", "EfficientNet", "MobileNetV3")
    },
    ("torchvision", "MobileNetV2"): ["features", POOLED, FLAT, "classifier"],
    ("torchvision", "DenseNet"): ["features", RELU, POOLED, FLAT, "classifier"],
    ("torchvision", "SqueezeNet"): ["features", "classifier", FLAT],
    ("casewise", "MNASNet"): ["layers", MEAN, "classifier"],
    ("torchvision", "ShuffleNetV2"): ["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", MEAN, "fc"],
    ("torchvision", "ResNet"): [*_RESNET, "avgpool", FLAT, "fc"],
    ("torchvision", "GoogLeNet"): [
        *[CHANGED, "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3"],
        *[*_INCEPTIONS, "maxpool4", "inception5a", "inception5b", "avgpool", FLAT, "dropout", "fc"],
    ],
    ("timm", "ResNet"): ["act1" if element == "relu" else element for element in _RESNET] + ["global_pool", "fc"],
}
# Blocks that are chains unless they add their input: the attribute that states this, and the name of the chain.
_OPENED = (("use_res_connect", "conv"), ("use_res_connect", "block"), ("apply_residual", "layers"))
# Without weights and randomness: computed with the modules before them, because pooled maps need less space.
_STEADY = (
    *[nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d],
    *[nn.Flatten, nn.Identity, _MeanOfMap, _AsGoogLeNet],
)


def split_at(network: Network, upto: FreezePoint | str | float) -> tuple[Segment, Segment]:
    """Split a network at a freeze point: `rest(frozen(panels))` is `network.features(panels)`, to the bit in eval mode.

    Both sides share the network's modules. A block with a residual connection or several paths cannot be split
    inside. The split is then before this block, its frozen layers are part of `rest`, and `frozen.at` states the
    position. Layers without weights that follow the point are part of the frozen side.

    Raises:
        StudyError: `upto` cannot be read.
        TrainingError: the network has no such point, is not a supported chain, no layer with weights precedes the
        cut, or the map that the head receives does.
    """
    try:
        return split_modules(network, frozen_end(network, upto))
    except _UncutError as error:
        raise TrainingError(
            f"freeze: {network.name} cannot be cut at {upto}: {error} Give a later freeze point; its first layer is "
            f"{layers(network)[0][0]}."
        ) from None


class _UncutError(TrainingError):
    """No layer with weights precedes the cut."""


def split_modules(network: Network, end: int) -> tuple[Segment, Segment]:
    """Split a network after its first `end` modules, in the order of the body's `modules()`; see `split_at`.

    Raises:
        TrainingError: the network is not a supported chain, no layer with weights precedes the cut, or the map that
        the head receives does.
    """
    frozen = {id(module) for module in list(network.bodies[0].modules())[:end]}
    chain = _chain(network)
    before, after = _split_chain(chain, frozen)
    if not any(True for element in before for _ in element.parameters()):
        raise _UncutError(
            f"no whole part of it ends before {last_frozen(network, end)}." if end else "nothing is frozen."
        )
    frozen_modules = [network.bodies[0].get_submodule(name) for name in frozen_module_names(network, end)]
    eval_modules = [module for element in before for module in element.modules()]
    first, rest = Segment([_Scaled(network), *before], [*frozen_modules, *eval_modules]), Segment(after, frozen_modules)
    first.at = rest.at = _name_of(network, before)
    if network.read_map:
        if network.bodies[0].get_submodule(network.read_map) not in set(rest.modules()):
            raise TrainingError(
                f"freeze: the head of {network.name} receives the map of {network.read_map}, which is frozen or split."
            )
        rest.reader = network.features_from
    return first, rest


def _chain(network: Network) -> list[nn.Module]:
    if network.fusion in ("late", "late-shared") or network.missing_token is not None:
        learns = network.missing_token is not None
        several = "learns what a missing one is" if learns else "looks at every sequence by itself"
        raise TrainingError(
            f"freeze: what {network.name} makes of a panel up to its freeze point cannot be kept: it is fused "
            f"({network.fusion}) and {several}. Its frozen part can only be computed at every step."
        )
    body: Any = network.bodies[0]
    kind = (type(body).__module__.partition(".")[0], type(body).__name__)
    if kind not in CHAINS:
        architectures = sorted({name for _, name in CHAINS} - {"PlainNetwork"})
        raise TrainingError(
            f"freeze: activations of {network.name} at its freeze point cannot be cached: it is none of the chains of "
            f"layers that casewise knows (cnn, unet_encoder and the families {', '.join(architectures)}). Its frozen "
            "layers can only be computed at every step."
        )
    between: dict[str, Callable[[], nn.Module]] = {
        FLAT: nn.Flatten,
        POOLED: lambda: nn.AdaptiveAvgPool2d(1),
        MEAN: _MeanOfMap,
        RELU: nn.ReLU,
        CHANGED: lambda: _AsGoogLeNet(body),
    }
    return [between[element]() if element in between else body.get_submodule(element) for element in CHAINS[kind]]


def _split_chain(chain: list[nn.Module], frozen: set[int]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Divide a chain at its first module that is not frozen; that module is divided too, if it is a chain itself."""
    for position, element in enumerate(chain):
        if all(id(module) in frozen for module in element.modules()) or _steady(element):
            continue
        before, after = _split_chain(_inside(element), frozen)
        return chain[:position] + before, (after if before else [element]) + chain[position + 1 :]
    return chain, []


def _inside(element: nn.Module) -> list[nn.Module]:
    """The modules of a chain; empty for a module that is not a chain."""
    if isinstance(element, nn.Sequential) and type(element).forward in (
        nn.Sequential.forward,
        FoldingSequential.forward,
    ):
        return list(element.children())
    for adds, inner in _OPENED:
        if getattr(element, adds, None) is False and isinstance(getattr(element, inner, None), nn.Sequential):
            return _inside(getattr(element, inner))
    return []


def _steady(element: nn.Module) -> bool:
    return all(isinstance(module, _STEADY) for module in element.modules() if not list(module.children()))


def _name_of(network: Network, before: list[nn.Module]) -> str:
    """The name in the body of the last module with weights before the split."""
    names = {id(module): name for name, module in network.bodies[0].named_modules()}
    weighted = [element for element in before if id(element) in names and any(True for _ in element.parameters())]
    return names[id(weighted[-1])]
