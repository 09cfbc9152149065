"""timm's networks for any panel size; position embeddings of transformers are interpolated if the size differs.

timm's transformers are built for one size of image. For another size, they are built with as many position embeddings
as the panel has patches; a panel whose side is not a multiple of the patch is padded at its right and lower edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import StudyError, cut
from casewise.modalities.base import Facts

POSITIONS = "pos_embed"


def timm_body(
    name: str, *, side: int | None = None, channels: int = 3, arguments: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int, Any]:
    """A network of timm with random weights and without its head, the width of its features, and its configuration.

    Args:
        side: the panel's height and width in pixels; by default the size of the published network.
        arguments: further arguments of the network, as a hub repository states them.

    Raises:
        StudyError: the network cannot be built for panels of this size.
    """
    import timm

    timm_name = name.removeprefix("timm:")
    options = {**(arguments or {}), **({"in_chans": channels} if channels != 3 else {})}
    config: Any = timm.get_pretrained_cfg(timm_name) if side else None
    if not side or not config or not config.fixed_input_size or side == options.get("img_size", config.input_size[-1]):
        body: Any = _created(timm_name, options)
    else:
        try:
            body = _sized(timm_name, side, options)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:120].rstrip(".")
            raise StudyError(
                f"backbones: {timm_name} cannot be built for panels of {side} px ({reason}). It is "
                f"published for {config.input_size[-1]} px; vit_small_patch16_224, for one, takes any size."
            ) from error
    normal = body.pretrained_cfg or {}
    return body, int(getattr(body, "head_hidden_size", None) or body.num_features), normal


def fitting_side(name: str, side: int, arguments: Mapping[str, Any]) -> int | None:
    """The side of panels for which a network of timm is built with its published weights; None if it reads any side.

    It is the multiple of the patch that is nearest to `side`, if only position embeddings depend on it, which are
    interpolated; else the published side.
    """
    import timm

    name = name.removeprefix("timm:")
    config: Any = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        return None
    published = int(config.input_size[-1])
    with torch.device("meta"):
        body: Any = _created(name, arguments)
        patch = _patch(body)
        multiple = max(1, round(side / patch)) * patch if patch else published
        try:
            other: Any = _created(name, {**arguments, "img_size": multiple})
        except (TypeError, AssertionError, ValueError, RuntimeError):
            return published
    tensors, _ = with_positions(other, body.state_dict())
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    uniform = len({info["reduction"] for info in getattr(other, "feature_info", ())}) == 1
    return multiple if uniform and shapes == {key: value.shape for key, value in tensors.items()} else published


def _created(name: str, options: Mapping[str, Any]) -> Any:
    """A network that timm has registered, with random weights; nothing is downloaded and no file is read.

    timm itself would also take the name of a hub repository or of a folder, and the path of a checkpoint.

    Raises:
        StudyError: timm has no such network.
    """
    import timm

    if ":" in name or not timm.is_model(name):
        raise StudyError(f"There is no network {cut(name)} in torchvision, timm or casewise.")
    return timm.create_model(name, **{**options, "pretrained": False, "checkpoint_path": "", "num_classes": 0})


def _sized(name: str, side: int, options: Facts) -> nn.Module:
    """The network for panels of another size than published; checked with one panel."""
    body: Any = _created(name, options | {"img_size": side})
    patch = _patch(body)
    if patch and side % patch:
        padded = {"dynamic_img_size": True, "dynamic_img_pad": True, "img_size": patch * math.ceil(side / patch)}
        body = _created(name, options | padded)
    with torch.no_grad():
        body.eval()(torch.zeros(1, options.get("in_chans", 3), side, side))
    return body.train()


def _patch(body: nn.Module) -> int:
    """The side of a patch in pixels; 0 if the network has none."""
    embedding: Any = getattr(body, "patch_embed", None)
    size: Any = getattr(embedding, "patch_size", 0)
    return int(size[0] if isinstance(size, (tuple, list)) else size or 0)


def with_positions(body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """A library's weights with their position embeddings interpolated to the body's patches, and a clause on it.

    Other weights, and those with as many positions, are returned unchanged with an empty clause.
    """
    expected, loaded = body.state_dict().get(POSITIONS), tensors.get(POSITIONS)
    if expected is None or loaded is None or expected.ndim != 3 or loaded.ndim != 3 or expected.shape == loaded.shape:
        return tensors, ""
    module: Any = body
    extra = 0 if getattr(module, "no_embed_class", False) else int(getattr(module, "num_prefix_tokens", 0))
    before = math.isqrt(max(loaded.shape[1] - extra, 0))
    size: Any = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if size is None or before**2 + extra != loaded.shape[1] or loaded.shape[2] != expected.shape[2]:
        return tensors, ""  # the shape raises an error later
    from timm.layers import resample_abs_pos_embed

    resized = resample_abs_pos_embed(loaded, new_size=list(size), num_prefix_tokens=extra)
    change = f"its position embeddings interpolated from {before}×{before} to {size[0]}×{size[1]} patches"
    return tensors | {POSITIONS: resized}, change
