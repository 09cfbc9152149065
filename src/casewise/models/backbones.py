"""Backbones behind one form: body, features, head, freeze points, a layer to explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from casewise.errors import StudyError, nearest
from casewise.models.attention import GatedAttention
from casewise.models.fusion import Fused, Fusion, Missing, check_fusion, take_channels
from casewise.models.registry import TORCHVISION, UNTRAINED

Scaling: TypeAlias = Literal["library", "symmetric"]
MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
TILES_AT_ONCE = 64
SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Network(nn.Module):
    """A backbone with a regression head.

    Takes panels (B, C, H, W) in 0–1 (one or three channels), with attention bags of tiles (B, K, C, H, W), or with a
    fused body panels (B, S, H, W) of S sequences, NaN where one is missing, and gives (B, outputs) in the units of the
    targets: the head works on standardised targets, whose centre and scale (from the training folds) are buffers of
    the network.
    """

    mean: Tensor
    spread: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        name: str,
        body: nn.Module,
        width: int,
        outputs: int,
        *,
        dropout: float,
        normal: Any = None,
        attention: bool = False,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.width, self.side = name, width, side
        self.held: frozenset[str] = frozenset()
        self.body = body
        gathered = [GatedAttention(width)] if attention else []
        self.head = nn.Sequential(*gathered, nn.Dropout(dropout), nn.Linear(width, outputs))
        mean, spread = normal or (MEAN, SPREAD)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(spread).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("centre", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def features(self, panels: Tensor) -> Tensor:
        """(B, C, H, W) in 0–1 → (B, width); bags (B, K, C, H, W), NaN at empty places, → (B, K, width) likewise."""
        if panels.ndim == 4:
            return self.body((panels - self.mean) / self.spread)
        there = ~panels[:, :, 0, 0, 0].isnan()
        tiles = panels[there]
        # what is not learned from need not be in memory at once
        parts = [tiles] if self.training else tiles.split(TILES_AT_ONCE)
        form = form_of(self.body)
        known = torch.cat([self.features(part.contiguous(memory_format=form)) for part in parts])
        found = known.new_full((*there.shape, known.shape[1]), torch.nan)
        found[there] = known
        return found

    def forward(self, panels: Tensor) -> Tensor:
        return self.told(self.features(panels))

    def told(self, features: Tensor) -> Tensor:
        """What the head makes of features, in the units of the targets: (B, outputs)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()) * self.scale + self.centre

    def hold(self, names: Iterable[str]) -> None:
        """Keep these modules of the body in eval mode from now on, whoever calls `train()` (see `freezing.freeze`)."""
        self.held = frozenset(names)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.held:
            for body in self.bodies:
                body.get_submodule(name).training = False
        return self

    @property
    def bodies(self) -> list[nn.Module]:
        """The networks of the library: one, or with late fusion one a sequence. Parts are named within the first."""
        return list(self.body.bodies) if isinstance(self.body, Fused) else [self.body]

    @property
    def fusion(self) -> Fusion | None:
        """How sequences come together; None where panels are pictures."""
        return self.body.kind if isinstance(self.body, Fused) else None

    @property
    def channels(self) -> int:
        """How many channels a panel has: its sequences, or three."""
        return self.body.sequences if isinstance(self.body, Fused) else 3

    @property
    def unseen(self) -> nn.Parameter | None:
        """What stands in for missing sequences, if anything does."""
        return self.body.unseen if isinstance(self.body, Fused) else None

    @property
    def blocks(self) -> list[tuple[str, nn.Module]]:
        """Freeze points from the input on: the body's parts with parameters, sequences opened once.

        With late fusion a block is the list of that block of every body.
        """
        found: list[tuple[str, nn.Module]] = []
        first, *others = self.bodies
        for name, part in first.named_children():
            inner = list(part.named_children()) if isinstance(part, nn.Sequential) and len(part) > 1 else []
            opened = [(f"{name}.{key}", module) for key, module in inner] or [(name, part)]
            found += [(key, module) for key, module in opened if any(True for _ in module.parameters())]
        if not others:
            return found
        return [(key, nn.ModuleList([m, *[body.get_submodule(key) for body in others]])) for key, m in found]

    @property
    def explain_layer(self) -> nn.Module:
        """The last module that still gives a spatial map (B, C, h, w): what Grad-CAM looks at; of the first body."""
        return self.explain_layers[0]

    @property
    def explain_layers(self) -> list[nn.Module]:
        """`explain_layer` of every body, in the order of the sequences.

        With `late-shared` there is one for all; `Fused.by_sequence` tells whose its rows are.
        """
        if self.name in EXPLAIN:
            return [body.get_submodule(EXPLAIN[self.name]) for body in self.bodies]
        first = self._last_spatial()
        name = next(key for key, module in self.bodies[0].named_modules() if module is first)
        return [body.get_submodule(name) for body in self.bodies]

    def _last_spatial(self) -> nn.Module:
        last: list[nn.Module] = []
        hooks = [
            module.register_forward_hook(
                lambda m, i, o: last.append(m) if isinstance(o, Tensor) and o.ndim == 4 and o.shape[-1] > 1 else None
            )
            for module in self.bodies[0].modules()
        ]
        training = self.training
        side = self.side or 224
        try:
            self.eval()
            with torch.no_grad():
                self.features(torch.zeros(1, self.channels, side, side, device=self.mean.device))
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        if not last:
            raise ValueError(f"{self.name} has no layer with a spatial map")
        return last[-1]


def form_of(part: nn.Module) -> torch.memory_format:
    """The memory format that a part of a network was put into, as the first kernel tells which has one.

    >>> form_of(nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last))
    torch.channels_last
    """
    for kernel in part.parameters():
        apart = kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last)
        if kernel.ndim == 4 and apart != kernel.is_contiguous():
            return torch.channels_last if apart else torch.contiguous_format
    return torch.contiguous_format


EXPLAIN = {
    **{
        name: "features"
        for name in TORCHVISION
        if name.startswith(("squeezenet", "densenet", "mobilenet", "efficientnet"))
    },
    # the last ReLU, before the last pooling leaves half as many cells
    "alexnet": "features.11",
    **{
        f"vgg{depth}{norm}": f"features.{last}"
        for depth, places in ((11, (19, 27)), (13, (23, 33)), (16, (29, 42)), (19, (35, 51)))
        for norm, last in zip(("", "_bn"), places, strict=True)
    },
    **{name: "layer4" for name in TORCHVISION if name.startswith(("resnet", "resnext", "wide_resnet"))},
    **{name: "conv5" for name in TORCHVISION if name.startswith("shufflenet")},
    **{name: "layers" for name in TORCHVISION if name.startswith("mnasnet")},
    "googlenet": "inception5b",
    **dict.fromkeys(UNTRAINED, "features"),
}


def build_network(
    name: str,
    outputs: int,
    *,
    dropout: float = 0.0,
    scaling: Scaling = "library",
    attention: bool = False,
    fusion: Fusion | None = None,
    sequences: int = 3,
    missing: Missing = "require",
    side: int | None = None,
) -> Network:
    """Build a network with random weights and a fresh head. Its library's own last layer is gone.

    Args:
        name: one of torchvision's or of `UNTRAINED` (see `casewise.models.registry`), or a timm name (`timm:NAME` where
            both have it).
        scaling: what panels in 0–1 become before the first layer. `library`: what the network's published weights
            expect (torchvision's: less the mean of ImageNet, by its spread); networks without any take `symmetric`.
            `symmetric`: [−1, 1], as the publication on skin biopsies has it
            (003_eab959a42de94a48.txt, "Preprocessing Skin Images").
        attention: whether panels are bags of tiles, weighed by gated attention.
        fusion: how the sequences of a panel come together (see `casewise.models.fusion.Fused`); None for pictures. One
            sequence alone is `early` with `sequences=1`. A sequence is no colour: every one is scaled by one number,
            the mean over red, green and blue of the library's mean, and of its spread.
        missing: what a missing sequence is: an error (`require`, and `drop`, where such cases were left out before), or
            replaced by what is learned (`mask`).
        side: height and width of the panels in pixels, which transformers are built for.

    Raises:
        StudyError: there is no such scaling or fusion, or the network cannot be built for it or for this size.
    """
    if scaling not in ("library", "symmetric"):
        hint = nearest(scaling, ("library", "symmetric"))
        raise StudyError(f"scaling: must be library or symmetric, got {scaling!r}.{hint}")
    check_fusion(fusion, sequences, missing, attention=attention)
    if fusion and name == "googlenet":
        scaling = "symmetric"  # what its own change of red, green and blue comes to
    channels = sequences if fusion == "early" else 3
    built = [_body(name, scaling, side, channels) for _ in range(sequences if fusion == "late" else 1)]
    body, width, normal = built[0]
    if fusion:
        bodies = [own for own, _, _ in built]
        body = Fused(bodies, width, kind=fusion, sequences=sequences, missing=missing)
        width, normal = body.width, [(sum(values) / len(values),) for values in normal]
    return Network(name, body, width, outputs, dropout=dropout, normal=normal, attention=attention, side=side)


def _body(name: str, scaling: Scaling, side: int | None, channels: int) -> tuple[nn.Module, int, Any]:
    """A network without its last layer, the width of its features, the mean and spread that it wants."""
    normal: Any = (MEAN, SPREAD)
    if name in UNTRAINED:
        from casewise.models.plain_cnn import plain_network

        body, width = plain_network(name)
        normal = SYMMETRIC
    elif name in TORCHVISION:
        body, width = _torchvision(name, scaling)
    else:
        from casewise.models.transformers import timm_body

        body, width, config = timm_body(name, side=side, channels=channels)
        normal = (config.get("mean", MEAN), config.get("std", SPREAD))
    if channels != 3:
        take_channels(body, name, channels)
    return body, width, SYMMETRIC if scaling == "symmetric" else normal


def _torchvision(name: str, scaling: Scaling) -> tuple[nn.Module, int]:
    from torchvision import models

    if name == "googlenet":
        # The auxiliary heads train on extra losses that a regression does not have; its published weights expect
        # inputs in [−1, 1], which transform_input makes from the usual normalisation.
        usual = scaling == "library"
        body = models.googlenet(weights=None, aux_logits=False, init_weights=True, transform_input=usual)
    else:
        body = models.get_model(name, weights=None)
    if name.startswith("shufflenet"):
        # The same numbers; torchvision's own shuffle gives up channels-last in every block.
        models.shufflenetv2.channel_shuffle = torch.channel_shuffle
    if name.startswith("squeezenet"):
        # Its classifier ends in a ReLU, under which a regression can neither fall below zero nor recover.
        body.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
        return body, 512
    place = "classifier" if hasattr(body, "classifier") else "fc"
    last: Any = getattr(body, place)
    linear: Any = last[-1] if isinstance(last, nn.Sequential) else last
    if isinstance(last, nn.Sequential):
        last[-1] = nn.Identity()
    else:
        setattr(body, place, nn.Identity())
    return body, int(linear.in_features)


def library_head(name: str) -> tuple[str, ...]:
    """Prefixes of the parameters in a library's weights that belong to its own last layer or to auxiliary heads."""
    from torchvision import models

    if name.startswith("squeezenet"):
        return ("classifier.",)
    if name == "googlenet":
        return ("fc.", "aux1.", "aux2.")
    if name in UNTRAINED:
        return ()
    if name not in TORCHVISION:
        return ("head.", "classifier.", "fc.", "head_dist.", "last_linear.")
    with torch.device("meta"):
        body = models.get_model(name, weights=None)
    if not hasattr(body, "classifier"):
        return ("fc.",)
    last = body.classifier
    return (f"classifier.{len(last) - 1}.",) if isinstance(last, nn.Sequential) else ("classifier.",)


def set_momentum(network: nn.Module, momentum: float) -> None:
    """Let running statistics follow within a few hundred steps; MNASNet's and MobileNetV3's own take thousands."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def keep_statistics(network: nn.Module, *, only_frozen: bool = False) -> None:
    """Put batch norms in eval mode, so that running statistics are used and kept; or those of frozen layers only."""
    for module in network.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        own = [parameter.requires_grad for parameter in module.parameters()]
        if not only_frozen or (own and not any(own)):
            module.eval()
