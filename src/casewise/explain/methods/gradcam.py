"""Grad-CAM: which places of a backbone's last map speak for what is asked of the network.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
computed by the `grad-cam` package. What is asked (a class, a grade, a number) is an `Asked`.

A class that the network knows by the absence of something has nothing that speaks for it: its map is then 0, or lies on
whatever else is there. Where lesions tell two classes apart, explain both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import CasewiseError
from casewise.explain.methods.no_side_effects import looked_into
from casewise.explain.methods.rollout import grid_of, is_transformer
from casewise.explain.methods.sequences import by_sequence
from casewise.explain.methods.target import ExplainTarget
from casewise.models.backbones import Network

TINY = 1e-30


def gradcam(network: Network, panels: Tensor, asked: ExplainTarget, *, layers: Sequence[nn.Module] = ()) -> Tensor:
    """Where the network's map speaks for what is asked, (B, h, w), not below 0. With late fusion the sequences' sum.

    Args:
        network: it is left as it was.
        panels: (B, C, H, W) in 0–1.
        layers: of each backbone a layer with a map (B, C, h, w), or of a transformer tokens (B, N, C); by default those
            of `layers_of`.

    Raises:
        CasewiseError: the layer gives no map.
    """
    return gradcam_by_sequence(network, panels, asked, layers=layers).clamp(min=0).nansum(dim=1)


def gradcam_by_sequence(
    network: Network, panels: Tensor, asked: ExplainTarget, *, layers: Sequence[nn.Module] = ()
) -> Tensor:
    """As `gradcam` with its sign, with late fusion one map for each sequence, NaN for a missing one: (B, S, h, w)."""
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise CasewiseError("Grad-CAM needs the package grad-cam: pip install 'casewise[explain]'.") from error
    from torchvision.models import DenseNet

    bodies: list[Any] = network.bodies
    with looked_into(network) as hooks:
        looked_at = list(layers) or layers_of(network)
        grids: list[tuple[int, int]] = []
        for body in bodies if is_transformer(bodies[0]) else []:
            hooks.append(
                body.patch_embed.register_forward_hook(
                    lambda m, i, o, body=body: grids.append(grid_of(body, o[0] if isinstance(o, tuple) else o, i[0]))
                )
            )
        if isinstance(bodies[0], DenseNet) and looked_at[0] is bodies[0].features:
            # its last ReLU is no module, and lets pass what its result is above 0: so nearly all of it counts
            hooks += [one.register_forward_hook(lambda m, i, o: o.relu() + TINY) for one in looked_at]
        library = GradCAM(network, looked_at, reshape_transform=lambda output: _as_map(output, bodies[0], grids))
        seen = library.activations_and_grads
        try:
            # no parameter learns here; what the layers give depends on the panels alone
            given = panels.detach().clone().requires_grad_(True)
            with torch.enable_grad():
                asked.score(seen(given)).sum().backward()
            pairs = [(a.numpy(), g.numpy()) for a, g in zip(seen.activations, seen.gradients, strict=True)]
            maps = [torch.from_numpy(library.get_cam_image(given, looked_at[0], [], a, g, False)) for a, g in pairs]
        finally:
            seen.release()
    return by_sequence(network, maps, panels.cpu()).float().to(panels.device)


def layers_of(network: Network, *, shape: tuple[int, int] | None = None, cells: int = 0) -> list[nn.Module]:
    """What Grad-CAM looks at in each backbone: its last map, of a transformer the tokens before its last attention.

    Args:
        shape: of the panels, height and width.
        cells: take the last block whose map of such a panel has so many rows and columns at least: earlier blocks tell
            places finer and classes less surely. A transformer's patches stay what they are.

    Raises:
        CasewiseError: no block has so many.
    """
    bodies: list[Any] = network.bodies
    if is_transformer(bodies[0]):
        # behind the last attention the patches' own tokens lead nowhere, unless the head reads their mean
        return [body.blocks[-1].norm1 for body in bodies]
    last = network.explain_layers
    if not cells or shape is None:
        return last
    named = [(name, bodies[0].get_submodule(name)) for name, _ in network.blocks]
    found: dict[str, tuple[int, int]] = {}
    with looked_into(network) as hooks:
        for name, module in [*named, ("", last[0])]:
            hooks.append(module.register_forward_hook(lambda m, i, o, name=name: _note(found, name, o, bodies[0])))
        with torch.no_grad():
            network.features(torch.zeros(1, network.channels, *shape, device=network.mean.device))
    if min(found[""]) >= cells:
        return last
    fine = [name for name, _ in named if name in found and min(found[name]) >= cells]
    if not fine:
        most = max((min(size) for size in found.values()), default=0)
        raise CasewiseError(f"explain: no block of {network.name} has a map of {cells} cells a side; {most} at most.")
    return [body.get_submodule(fine[-1]) for body in bodies]


def _note(found: dict[str, tuple[int, int]], name: str, output: Any, body: Any) -> None:
    """Keep the rows and columns of a layer's map, if it is one."""
    if isinstance(output, Tensor) and output.ndim == 4:
        first = 1 if getattr(body, "output_fmt", "NCHW") == "NHWC" else 2
        found[name] = (int(output.shape[first]), int(output.shape[first + 1]))


def _as_map(output: Tensor, body: Any, grids: list[tuple[int, int]]) -> Tensor:
    """A layer's output as (B, C, h, w), on its own: the network may go on to change the original in place."""
    if output.ndim == 3 and grids:
        rows, columns = grids[0]
        patches = output[:, int(body.num_prefix_tokens) :]
        return patches.transpose(1, 2).reshape(len(output), -1, rows, columns).clone()
    if output.ndim != 4:
        raise CasewiseError(f"explain: the layer gives {tuple(output.shape)}; Grad-CAM needs a map (B, C, h, w).")
    if getattr(body, "output_fmt", "NCHW") == "NHWC":
        output = output.permute(0, 3, 1, 2)
    return output.clone()
