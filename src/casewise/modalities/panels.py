"""Panels, the input of a network: tiles fill slots, are augmented one by one, shuffled and arranged in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from casewise.modalities.device import rows_on, to_device
from casewise.study.images import FASTAI

if TYPE_CHECKING:
    from casewise.modalities.shape_variation import ShapeVariation
    from casewise.study.schema import Panels

EMPTY = -1
PARAMETERS = 8
FURTHER = 5  # zoom in, perspective (2), the place of the part that is enlarged (2)
# What leaves a tile as it is, by parameter, and the parameters that `probability` does not concern.
NEUTRAL = torch.tensor([0.5] * 8 + [0.0] + [0.5] * 4)
ALWAYS_DRAWN = [6, 7, 11, 12]


def chunks(tiles: Sequence[int], slots: int) -> list[list[int]]:
    """Fill slots deterministically: as many panels as the tiles need, the last one padded with empty slots.

    >>> chunks([7, 8, 9], 2)
    [[7, 8], [9, -1]]
    """
    count = max(1, -(-len(tiles) // slots))
    padded = [*tiles, *[EMPTY] * (count * slots - len(tiles))]
    return [padded[i * slots : (i + 1) * slots] for i in range(count)]


def draw(tiles: Sequence[int], settings: Panels, generator: torch.Generator) -> list[int]:
    """Fill the slots of one training panel: tiles are sampled if there are more than slots, and shuffled if set."""
    selected = list(tiles)
    if len(selected) > settings.slots:
        kept = torch.randperm(len(selected), generator=generator)[: settings.slots]
        selected = [selected[i] for i in sorted(kept.tolist())]
    filled = chunks(selected, settings.slots)[0]
    if settings.shuffle:
        filled = [filled[i] for i in torch.randperm(settings.slots, generator=generator).tolist()]
    return filled


def _gather(store: Tensor, slots: Tensor, device: torch.device | str) -> Tensor:
    """Copy tiles, or their masks, from the store to `device`; empty slots are black.

    Args:
        store: (N, ...) uint8.
        slots: (...) tile numbers, −1 for an empty slot.
    """
    batch, empty = rows_on(device, store, slots.clamp(min=0)), slots == EMPTY
    if not empty.any():
        return batch
    return batch.masked_fill_(to_device(empty, device).view(*slots.shape, *[1] * (store.ndim - 1)), 0)


def fold(tiles: Tensor, settings: Panels) -> Tensor:
    """Arrange slots in a grid, row by row: (B, S, C, H, W) → (B, C, rows·H, columns·W).

    >>> from casewise.study.schema import Panels
    >>> fold(torch.arange(4).reshape(1, 4, 1, 1, 1), Panels(grid="2x2")).tolist()
    [[[[0, 1], [2, 3]]]]
    """
    size, _, channels, height, width = tiles.shape
    grid = tiles.reshape(size, settings.rows, settings.columns, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(size, channels, settings.rows * height, settings.columns * width)


def stacked(panels: Tensor, rows: int) -> Tensor:
    """The slots of a panel with as many columns as rows, one below another: (B, C, rows·H, rows·W) → (…, rows²·H, W).

    >>> stacked(torch.tensor([[[[0, 1], [2, 3]]]]), 2).tolist()
    [[[[0], [1], [2], [3]]]]
    """
    if rows == 1:
        return panels
    return panels.unflatten(3, (rows, -1)).unflatten(2, (rows, -1)).transpose(3, 4).flatten(2, 4)


def _with_planes(tiles: Tensor, numbers: Tensor, masks: Tensor | None) -> Tensor:
    """Tiles (..., C, H, W) `uint8`, followed by two planes of their masks: marked pixels, and known ones, as 255.

    Args:
        numbers: (...) of the tiles, −1 for an empty slot, where no pixel is known.
        masks: (N, H, W) of the store as by `casewise.modalities.masks.training_masks`; None adds nothing.
    """
    if masks is None:
        return tiles
    codes = _gather(masks, numbers, tiles.device)
    planes = torch.stack([codes > 1, codes > 0], dim=-3)
    return torch.cat([tiles, planes.to(torch.uint8) * 255], dim=-3)


def plain(
    store: Tensor, slots: Tensor, settings: Panels, device: torch.device | str = "cpu", *, masks: Tensor | None = None
) -> Tensor:
    """Panels for inference without augmentation, on `device`: (B, C, H, W) float in 0–1; bags as by `arrange`."""
    # bytes are moved to the device, a quarter of the memory of numbers
    tiles = _with_planes(_gather(store, slots, device), slots, masks)
    return _arrange(tiles.float().div_(255), slots, settings)


def _arrange(tiles: Tensor, slots: Tensor, settings: Panels) -> Tensor:
    """Arrange tiles (B, S, C, H, W) in a grid; or return them as a bag, NaN in empty slots."""
    if not settings.bags:
        return fold(tiles, settings)
    empty = (slots == EMPTY).view(*slots.shape, 1, 1, 1)
    return tiles.masked_fill(to_device(empty, tiles.device), torch.nan) if empty.any() else tiles


def augmented(
    store: Tensor,
    slots: Tensor,
    settings: Panels,
    generator: torch.Generator,
    *,
    shapes: ShapeVariation | None = None,
    device: torch.device | str = "cpu",
    masks: Tensor | None = None,
) -> Tensor:
    """Panels for training: every tile is augmented with separate parameters, drawn from `generator`.

    Brightness and contrast change the photograph, not the black padding. Rotation, translation, zoom and perspective
    fill with black, or with `padding_mode: reflect` with the mirrored tile. Each parameter but flips is drawn for a
    fraction `probability` of the tiles, independently. `shapes` vary the shapes of the images. Tiles are moved to
    `device` as bytes and augmented there, by draws of the CPU. Masks move with their tiles, and keep their tones.

    Returns:
        (B, C, rows·H, columns·W) float in 0–1 on `device`; bags as by `arrange`. With masks, two planes follow the
        channels (`_with_planes`).
    """
    size, count = slots.shape
    flat = slots.reshape(-1)
    parameters = torch.rand(len(flat), PARAMETERS, generator=generator)
    full = torch.nonzero(flat != EMPTY).squeeze(1)
    numbers, drawn = flat[full], parameters[full]
    tiles = _with_planes(rows_on(device, store, numbers), numbers, masks).float().div_(255)
    if settings.zoom_in or settings.perspective or settings.probability < 1:
        # drawn after the others, so that they do not change the draws of studies without them
        additional = torch.rand(len(flat), FURTHER, generator=generator)
        drawn = torch.cat([drawn, additional[full]], dim=1)
    if settings.probability < 1:
        changed = torch.rand(len(flat), len(NEUTRAL), generator=generator)[full] < settings.probability
        changed[:, ALWAYS_DRAWN] = True
        drawn = torch.where(changed, drawn, NEUTRAL)
    if shapes:
        tiles = shapes.varied(tiles, numbers, generator)
    drawn = to_device(drawn, device)
    toned, planes = _toned(tiles[:, : store.shape[1]], drawn, settings), tiles[:, store.shape[1] :]
    tiles = _warped(toned if masks is None else torch.cat([toned, planes], dim=1), drawn, settings)
    if len(full) < len(flat):
        shown, tiles = tiles, tiles.new_zeros(len(flat), *tiles.shape[1:])
        tiles[to_device(full, device)] = shown
    return _arrange(tiles.reshape(size, count, *tiles.shape[1:]), slots, settings)


def _between(uniform: Tensor, width: float) -> Tensor:
    """Map uniform numbers from 0–1 to −width … width."""
    return (uniform * 2 - 1) * width


def _toned(tiles: Tensor, drawn: Tensor, settings: Panels) -> Tensor:
    if not (settings.brightness or settings.contrast):
        return tiles
    inside = tiles.amax(dim=1, keepdim=True) > 0
    if settings.augmentation == FASTAI:
        shift = torch.logit((1 + _between(drawn[:, 0], settings.brightness)) / 2).view(-1, 1, 1, 1)
        factor = ((1 - settings.contrast) ** _between(drawn[:, 1], 1.0)).view(-1, 1, 1, 1)
        return tiles.logit(1e-7).add_(shift).mul_(factor).sigmoid_().mul_(inside)
    bright = (1 + _between(drawn[:, 0], settings.brightness)).view(-1, 1, 1, 1)
    contrast = (1 + _between(drawn[:, 1], settings.contrast)).view(-1, 1, 1, 1)
    share = inside.float().mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    middle = tiles.mean(dim=(1, 2, 3), keepdim=True) / share
    return tiles.sub(middle).mul_(contrast).add_(middle).mul_(bright).clamp_(0, 1).mul_(inside)


def _mirrored(tiles: Tensor, drawn: Tensor, flip: str) -> Tensor:
    horizontal, vertical = (drawn[:, column].view(-1, 1, 1, 1) < 0.5 for column in (6, 7))
    if flip == "dihedral":
        # half of the tiles get one of the eight symmetries of a square; one of the eight changes nothing
        number = (drawn[:, 6] * 16).long().view(-1, 1, 1, 1)
        horizontal, vertical, swapped = ((number < 8) & (number & bit > 0) for bit in (1, 2, 4))
        tiles = torch.where(swapped, tiles.transpose(2, 3), tiles)
    if flip in ("horizontal", "both", "dihedral"):
        tiles = torch.where(horizontal, tiles.flip(3), tiles)
    if flip in ("vertical", "both", "dihedral"):
        tiles = torch.where(vertical, tiles.flip(2), tiles)
    return tiles


def _warped(tiles: Tensor, drawn: Tensor, settings: Panels) -> Tensor:
    tiles = _mirrored(tiles, drawn, settings.flip)
    if not (settings.rotate or settings.translate or settings.zoom or settings.zoom_in or settings.perspective):
        return tiles
    angle = _between(drawn[:, 2], np.deg2rad(settings.rotate))
    scale = 1 / (1 + _between(drawn[:, 3], settings.zoom))
    if settings.zoom_in:
        scale = scale / (1 + drawn[:, 8] * settings.zoom_in)
    shift = _between(drawn[:, 4:6], settings.translate) * 2
    if settings.zoom_in and settings.augmentation == FASTAI:
        centre = torch.view_as_complex(_between(drawn[:, 11:13], 1.0).contiguous())
        shift = shift + torch.view_as_real(torch.polar(1 - scale, angle) * centre)
    # Rotation and zoom are one complex factor, which is much faster than affine_grid.
    turn = torch.polar(scale, angle).view(-1, 1, 1)
    moved = turn * _points(tiles) + torch.view_as_complex(shift.contiguous()).view(-1, 1, 1)
    grid = torch.view_as_real(moved)
    if settings.perspective:
        grid = _in_perspective(grid, _between(drawn[:, 9:11], settings.perspective))
    edge = "reflection" if settings.padding_mode == "reflect" else "zeros"
    return functional.grid_sample(tiles, grid, mode="bilinear", padding_mode=edge, align_corners=False)


def _in_perspective(grid: Tensor, tilt: Tensor) -> Tensor:
    """Points (B, H, W, 2) in perspective, tilted by (B, 2): one side of the tile is nearer than the other.

    As in fastai's `Warp`, a tilt of (t, 0) moves the corners on one side together by t, and those on the other apart.
    """
    tilt = tilt.view(-1, 1, 1, 2)
    rest = 1 - tilt.square().sum(dim=3, keepdim=True)
    shift = -tilt * (1 + 2 * tilt.flip(3).square() / rest)
    moved = grid + grid.flip(3) * (2 * tilt.prod(dim=3, keepdim=True) / rest) + shift
    return moved / (1 + (grid * shift).sum(dim=3, keepdim=True)).clamp(min=0.2)


def _points(tiles: Tensor) -> Tensor:
    """The centre of every pixel as x + iy, each axis from −1 to 1: (H, W) complex."""
    x, y = ((torch.arange(n, device=tiles.device) * 2 + 1) / n - 1 for n in (tiles.shape[3], tiles.shape[2]))
    return torch.complex(x.expand(len(y), -1), y.unsqueeze(1).expand(-1, len(x)))
