"""Grad-CAM: which cells of a feature map of the backbone support the explained output of the network.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
computed by the `grad-cam` package. An `ExplainTarget` states the explained output (a class, a grade or a number).

A class that is defined by the absence of a sign has no supporting region. Its map is then 0, or it highlights other
structures. Where lesions separate two classes, explain both classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import CasewiseError
from casewise.models.backbones import Network
from casewise.models.feature_maps import spatial_maps
from casewise.plugins.explain.methods.rollout import by_sequence, is_transformer, record_grids, without_side_effects
from casewise.plugins.explain.methods.target import ExplainTarget

TINY = 1e-30
# The largest stride, in pixels of a panel, of the map that is read by default.
STRIDE = 16
# The layer that is explained, where it is not the last map: pooling after it halves the cells, or keeps a few.
LAST = {
    "alexnet": "features.11",
    **{
        f"vgg{depth}{norm}": f"features.{last}"
        for depth, places in ((11, (19, 27)), (13, (23, 33)), (16, (29, 42)), (19, (35, 51)))
        for norm, last in zip(("", "_bn"), places, strict=True)
    },
    "cnn": "features",
    "unet_encoder": "features",
    "unet": "features.4",
    "unet_unpadded": "features.3",
    "unet_dense": "features.4",
}


def gradcam_by_sequence(network: Network, panels: Tensor, target: ExplainTarget, layer: str) -> Tensor:
    """Where the feature map supports the target (above 0) or opposes it, (B, S, h, w); NaN for a missing sequence.

    With late fusion there is one map per sequence, otherwise S is 1.

    Args:
        network: it is left unchanged.
        panels: (B, C, H, W) in 0–1.
        layer: the name of a layer of each backbone with a map (B, C, h, w) or, for a transformer, tokens (B, N, C).

    Raises:
        CasewiseError: the layer gives no map.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise CasewiseError("Grad-CAM needs the package grad-cam: pip install 'casewise[explain]'.") from error
    from torchvision.models import DenseNet

    bodies: list[Any] = network.bodies
    layers = [body.get_submodule(layer) for body in bodies]
    with without_side_effects(network) as hooks:
        hooks += [layer.register_forward_hook(_start_of_graph) for layer in layers]
        grids: list[tuple[int, int]] = []
        hooks += [record_grids(body, grids) for body in bodies if is_transformer(body)]
        if isinstance(bodies[0], DenseNet) and layers[0] is bodies[0].features:
            # the last ReLU of a DenseNet is a function, not a module, so the hook applies it; TINY keeps the gradient
            hooks += [layer.register_forward_hook(lambda m, i, o: o.relu() + TINY) for layer in layers]
        library = GradCAM(network, layers, reshape_transform=lambda output: _as_map(output, bodies[0], grids))
        recorder = library.activations_and_grads
        try:
            inputs = panels.detach().clone()
            with torch.enable_grad():
                target.score(recorder(inputs)).sum().backward()
            pairs = [(a.numpy(), g.numpy()) for a, g in zip(recorder.activations, recorder.gradients, strict=True)]
            maps = [torch.from_numpy(library.get_cam_image(inputs, layers[0], [], a, g, False)) for a, g in pairs]
        finally:
            recorder.release()
    return by_sequence(network, maps, panels.cpu()).float().to(panels.device)


def _start_of_graph(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Let gradients end at the output of a layer; the network may change the copy in place, but not the original."""
    return output.detach().requires_grad_(True).clone() if isinstance(output, Tensor) else output


def layer_of(network: Network, shape: tuple[int, int], map_size: int = 0) -> str:
    """The layer of each backbone that Grad-CAM reads; for a transformer the input of its last attention.

    For a CNN this is the last block with a stride of at most `STRIDE` pixels of the panel, because cells of a stride of
    32 are too coarse to localise anything; without such a block, it is the last map.

    Args:
        shape: height and width of the panels.
        map_size: take the last block whose map of such a panel has at least this many rows and columns instead: earlier
            blocks localise more finely and separate classes less well. 1 takes the last map. The patches of a
            transformer do not change.

    Raises:
        CasewiseError: no block has this many.
    """
    body: Any = network.bodies[0]
    if is_transformer(body):
        # after the last attention, patch tokens affect the output only if the head reads their mean
        return f"blocks.{len(body.blocks) - 1}.norm1"
    sizes: dict[str, tuple[int, int]] = {}
    with without_side_effects(network) as hooks:
        last = last_map(network)
        layer = body.get_submodule(last)
        for name, module in [*_blocks(body), ("", layer)]:
            hooks.append(module.register_forward_hook(lambda m, i, o, name=name: _record(sizes, name, o, body)))
        with torch.no_grad():
            network.features(torch.zeros(1, network.channels, *shape, device=network.mean.device))
    if network.rows > 1:  # slices one below another, which the panel has side by side
        sizes = {name: (network.rows * columns, network.rows * columns) for name, (_, columns) in sizes.items()}

    def is_fine(name: str) -> bool:
        return min(sizes[name]) >= map_size if map_size else _stride_of(shape, sizes[name]) <= STRIDE

    # `sizes` is in the order in which blocks are computed; the last map itself is preferred to a block inside it
    fine = [""] if is_fine("") else [name for name in sizes if name and is_fine(name)]
    if not fine and map_size:
        most = max(min(size) for size in sizes.values())
        raise CasewiseError(
            f"explain: no block of {network.name} has a map of {map_size} cells a side; the finest has {most}."
        )
    return fine[-1] if fine and fine[-1] else last


def last_map(network: Network) -> str:
    """The module of each body with the last map (B, C, h, w), or with the inner map that the head receives.

    Raises:
        CasewiseError: the network has no map.
    """
    if name := network.read_map or LAST.get(network.name):
        return name
    channels = network.channels if network.fusion == "early" else 3
    maps = spatial_maps(network.bodies[0], side=network.side or 224, channels=channels)
    if not maps:
        raise CasewiseError(f"explain: {network.name} has no layer with a spatial map.")
    return maps[-1]


def _stride_of(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """The distance of the cells of a map of `size` in pixels of a panel of `shape`, as the nearest power of two.

    Convolutions without padding lose cells at the edge, so the quotient is often a little larger.

    >>> _stride_of((224, 224), (14, 14)), _stride_of((128, 128), (7, 7)), _stride_of((96, 96), (3, 3))
    (16, 16, 32)
    """
    return 2 ** round(max(math.log2(side / cells) for side, cells in zip(shape, size, strict=True)))


def _blocks(body: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a backbone, `nn.Sequential` ones one by one; also those without parameters, such as a ReLU."""
    blocks: list[tuple[str, nn.Module]] = []
    for name, child in body.named_children():
        inner = list(child.named_children()) if isinstance(child, nn.Sequential) else []
        blocks += [(f"{name}.{key}", module) for key, module in inner] or [(name, child)]
    return blocks


def _record(sizes: dict[str, tuple[int, int]], name: str, output: Any, body: Any) -> None:
    """Record the rows and columns of a layer's output if it is a map."""
    if isinstance(output, Tensor) and output.ndim == 4:
        first = 1 if getattr(body, "output_fmt", "NCHW") == "NHWC" else 2
        sizes.pop(name, None)  # a module that is used twice counts where it is used last
        sizes[name] = (int(output.shape[first]), int(output.shape[first + 1]))


def _as_map(output: Tensor, body: Any, grids: list[tuple[int, int]]) -> Tensor:
    """A copy of a layer's output as (B, C, h, w): the network may change the original in place."""
    if output.ndim == 3 and grids:
        rows, columns = grids[0]
        patches = output[:, int(body.num_prefix_tokens) :]
        return patches.transpose(1, 2).reshape(len(output), -1, rows, columns).clone()
    if output.ndim != 4:
        raise CasewiseError(f"explain: the layer gives {tuple(output.shape)}; Grad-CAM needs a map (B, C, h, w).")
    if getattr(body, "output_fmt", "NCHW") == "NHWC":
        output = output.permute(0, 3, 1, 2)
    return output.clone()
