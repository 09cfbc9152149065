"""Several sequences of a case in one network: combined in the first layer, or after bodies of their own.

Early fusion: the first layer takes S channels. Late fusion: a body for each sequence, or one for all, and their
concatenated features. A missing sequence is NaN; with `missing: mask` a learned value replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import StudyError, counted
from casewise.models.backbones import NetworkOptions, library_body
from casewise.plugins.volumes.settings import FUSIONS
from casewise.study.sources import Body


def fused_body(name: str, options: NetworkOptions) -> Body:
    """The body of a network of several sequences; each is scaled by one number.

    Raises:
        StudyError: there is no such fusion, or the network cannot be built for it.
    """
    kind, sequences = str(options.fusion), options.sequences
    if kind not in FUSIONS or sequences < 1:
        raise StudyError(f"fusion: {kind} of {sequences} sequences; write one of {', '.join(FUSIONS)}.")
    if options.pooling and kind != "early":
        raise StudyError(
            f"fusion: {kind} encodes every sequence by itself, and `panels.pooling` every slice; use early fusion or "
            "single sequences, or another pooling."
        )
    channels = sequences if kind == "early" else 3
    bodies = []
    for _ in range(sequences if kind == "late" else 1):
        bodies.append(library_body(name, options, channels))
        if kind == "early":
            _take_channels(bodies[-1].module, name, channels)
    first = bodies[0]
    module = Fused(
        [body.module for body in bodies], first.width, kind=kind, sequences=sequences, missing=options.missing
    )
    mean, std = ((sum(values) / len(values),) for values in first.normal)
    return replace(first, module=module, width=module.width, normal=(mean, std))


class Fused(nn.Module):
    """One or several bodies over the sequences of a panel: (B, S, H, W), normalised, → features (B, width).

    `early`: one body, whose first layer takes all sequences. `late`: a body for each sequence; `late-shared`: one
    body for all, which processes a batch at once, ordered by sequence and then by case. In late fusion every sequence
    is repeated to three channels, and the features are in the order of the sequences.

    A sequence whose first pixel is NaN is missing. With `missing="mask"` a learned value (early: (S,), in normalised
    units) or a learned feature vector (late: (S, width of a body)) replaces it; both begin at 0 and are always trained.
    In late fusion no body processes missing sequences; a body with a single row in a training batch uses its running
    statistics, because a batch norm needs several rows.

    Raises:
        ValueError: the number of sequences differs from the network's, or one is missing although none may be.
    """

    missing_token: nn.Parameter | None

    def __init__(self, bodies: Sequence[nn.Module], width: int, *, kind: str, sequences: int, missing: str) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.kind, self.sequences, self.missing = kind, sequences, missing
        self.width = width if kind == "early" else width * sequences
        shape = (sequences,) if kind == "early" else (sequences, width)
        self.missing_token = nn.Parameter(torch.zeros(shape)) if missing == "mask" else None

    def forward(self, panels: Tensor) -> Tensor:
        if panels.shape[1] != self.sequences:
            raise ValueError(f"a network of {self.sequences} sequences was given panels of {panels.shape[1]}")
        present = ~panels[:, :, 0, 0].isnan()
        if self.missing_token is None:
            # a step on a GPU does not wait for this: without the check its loss is no number
            if not (self.training and panels.device.type == "cuda") and not bool(present.all()):
                raise ValueError(f"a sequence is missing, and the network was built with missing={self.missing!r}")
            return self._all(panels)
        if self.kind == "early":
            return self.bodies[0](torch.where(present[:, :, None, None], panels, self.missing_token.view(1, -1, 1, 1)))
        return self._present(panels, present, self.missing_token)

    def fitted(self, name: str, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """A library's weights as a body needs them, and a clause on what was changed."""
        key = f"{first_layer(self.bodies[0], name)}.weight" if self.kind == "early" else ""
        kernels = tensors.get(key)
        # weights with as many channels as sequences are of sequences, except with three channels, which are colours
        if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 3:
            return tensors, ""
        count = self.sequences
        how = f"each has the mean of the weights for red, green and blue, times 3/{count}"
        if count == 3:
            how = "they have the weights for red, green and blue, in this order"
        layer = key.removesuffix(".weight")
        clause = f"its first layer ({layer}) adapted to {counted(count, 'sequence')}: {how}"
        return tensors | {key: adapted(kernels, count)}, clause

    def _all(self, panels: Tensor) -> Tensor:
        if self.kind == "early":
            return self.bodies[0](panels)
        if self.kind == "late-shared":
            present = self.bodies[0](_threefold(panels.transpose(0, 1).flatten(0, 1)))
            return present.view(self.sequences, len(panels), -1).transpose(0, 1).flatten(1)
        return torch.cat([body(_threefold(panels[:, s])) for s, body in enumerate(self.bodies)], dim=1)

    def _present(self, panels: Tensor, present: Tensor, token: Tensor) -> Tensor:
        combined, by_sequence = token.expand(len(panels), -1, -1).clone(), panels.transpose(0, 1)
        for body, rows in zip(self.bodies, self._runs(present), strict=True):
            rows_present = by_sequence[rows]
            if len(rows_present):
                with _alone(body, len(rows_present)):
                    combined.transpose(0, 1)[rows] = body(_threefold(rows_present)).to(combined.dtype)
        return combined.flatten(1)

    def _runs(self, present: Tensor) -> list[Tensor]:
        """The inputs of each body: (S, B), true where it processes a sequence of a case; its rows have this order."""
        whole = present.transpose(0, 1)
        if self.kind != "late":
            return [whole]
        sequence_masks = torch.eye(self.sequences, dtype=torch.bool, device=present.device)
        return [whole & sequence_masks[s].unsqueeze(1) for s in range(self.sequences)]

    def by_sequence(self, outputs: Sequence[Tensor], panels: Tensor) -> Tensor:
        """The outputs of a layer of the bodies by sequence of each case, (B, S, ...), NaN for missing ones.

        In early fusion there is one for all sequences: (B, 1, ...).

        Args:
            outputs: the layer's outputs from a hook, for each body that ran; a body does not run if no case of the
                batch has its sequence.
            panels: the batch, (B, S, H, W).
        """
        if self.kind == "early":
            return outputs[0].unsqueeze(1)
        runs = [rows for rows in self._runs(~panels[:, :, 0, 0].isnan()) if bool(rows.any())]
        combined = outputs[0].new_full((self.sequences, len(panels), *outputs[0].shape[1:]), torch.nan)
        for rows, output in zip(runs, outputs, strict=True):
            combined[rows] = output
        return combined.transpose(0, 1)


def _threefold(panels: Tensor) -> Tensor:
    """(B, H, W) → (B, 3, H, W)."""
    return panels.unsqueeze(1).expand(-1, 3, -1, -1)


@contextmanager
def _alone(body: nn.Module, rows: int) -> Iterator[None]:
    """Set the body's batch norms to eval mode if there is only one row."""
    kind = nn.modules.batchnorm._BatchNorm
    norms = [m for m in body.modules() if isinstance(m, kind) and m.training] if rows == 1 else []
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def first_layer(body: nn.Module, name: str) -> str:
    """The name of the convolution that processes the panel.

    Raises:
        StudyError: the network has none.
    """
    config: Any = getattr(body, "pretrained_cfg", None) or {}
    stated = config.get("first_conv")
    combined = [key for key, module in body.named_modules() if isinstance(module, nn.Conv2d)]
    first = stated if stated in combined else next(iter(combined), None)
    if first is None:
        raise StudyError(f"fusion: early needs a convolution at the input, and {name} has none. Take late.")
    return first


def _take_channels(body: nn.Module, name: str, channels: int) -> None:
    """Replace the first layer of a body with random weights by one with `channels` channels instead of three.

    New kernels are drawn, with the spread of the library's own times √(3/channels): the layer's output spreads as
    widely as from three channels.
    """
    layer_name = first_layer(body, name)
    layer: Any = body.get_submodule(layer_name)
    if layer.in_channels == channels:
        return
    old = layer.weight.detach()
    new = torch.randn(len(old), channels, *old.shape[2:]) * old.std() * (old.shape[1] / channels) ** 0.5
    layer.weight, layer.in_channels = nn.Parameter(new), channels


def adapted(kernels: Tensor, channels: int) -> Tensor:
    """Kernels over red, green and blue (O, 3, h, w) for `channels` sequences (O, channels, h, w).

    Three sequences keep the kernels of red, green and blue, one each. Other numbers of channels have the mean over the
    three, times 3/channels. Either way the same picture in all channels gives what it gives in red, green and blue.

    >>> adapted(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1), 2).flatten().tolist()
    [4.5, 4.5]
    """
    count = kernels.shape[1]
    if channels == count:
        return kernels
    return kernels.mean(dim=1, keepdim=True).mul(count / channels).repeat(1, channels, 1, 1)
