"""How images become panels, stated so that another program can do it, and a drawn image with its panel to test that."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from casewise.modalities.dataset import three_channels
from casewise.modalities.panels import EMPTY, plain
from casewise.modalities.store.pixels import MASKED
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import ORIENTATION, SPARE, open_source
from casewise.study.images import POOLINGS

if TYPE_CHECKING:
    from casewise.plugins.export.learner import TrainedLearner

REFERENCE = "reference.jpg"
# What a panel of the reference image may differ by where a program has other decoders or filters.
PANEL_TOLERANCE = 2 / 255
Step: TypeAlias = dict[str, object]


def drawn_reference(size: int) -> bytes:
    """A JPEG for the test of a program: lying on its side, of odd sides, so large that it is decoded at half its size.

    >>> Image.open(io.BytesIO(drawn_reference(32))).size
    (163, 129)
    """
    y, x = np.mgrid[0:64, 0:80] / 16
    picture = np.stack([x / 5, y / 4, 0.5 + 0.5 * np.sin(3 * x + 2 * y)], axis=2)
    picture[(x - 1.2) ** 2 + (y - 1) ** 2 < 0.5] = (0.9, 0.2, 0.1)
    picture[(x > 3.5) & (y > 3)] = (0.1, 0.3, 0.9)
    image = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = 6
    large = image.resize((5 * size + 3, 4 * size + 1), Image.Resampling.BICUBIC)
    large.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def reference_panel(learner: TrainedLearner, image: bytes) -> Tensor:
    """The panel of an image by casewise's own code, (1, C, H, W), or a bag of it; further slots are empty.

    Where a panel is not made from image files, random values take its place.
    """
    study = learner.study
    if study.modality_name != "photographs":
        shape = (1, *((1,) if learner.bags else ()), *learner.tile_shape)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))
    tile = open_source(Path(REFERENCE), image).tile(Preparation.of(study.images))
    slots = [0] if learner.bags else [0] + [EMPTY] * (study.panels.slots - 1)
    return plain(three_channels(tile[None].copy()), torch.tensor([slots]), study.panels).contiguous()


def complete_for(learner: TrainedLearner) -> list[str]:
    """The formats of files for which `steps` states everything; none where casewise's own preparation is needed."""
    return ["JPEG", "PNG", "WebP", "TIFF"] if learner.study.modality_name == "photographs" else []


def steps(learner: TrainedLearner) -> list[Step]:
    """The steps from files to the input of the graph, in order, each as a sentence and as values."""
    study = learner.study
    if study.modality_name == "volumes":
        return [*_scan_steps(learner), *_several_panels(learner)]
    if study.modality_name not in ("photographs", "slides"):
        text = f"Images are prepared by the modality `{study.modality_name}`, with the settings under `preparation`."
        return [{"step": "prepare", "text": text}]
    cut = "Tiles are cut from a slide as `preparation.settings` states; an image file is used whole."
    tiles: list[Step] = [{"step": "tiles", "text": cut}] if study.modality_name == "slides" else []
    return [*tiles, *_file_steps(Preparation.of(study.images)), *_panel_steps(learner), *_several_panels(learner)]


def _file_steps(preparation: Preparation) -> list[Step]:
    """From an image file to a tile."""
    size, pads = preparation.size, preparation.fit == "pad"
    sides = (
        f"If max(w, h) > {size}, the target is (max(1, round(w·{size}/max(w, h))), max(1, round(h·{size}/max(w, h)))), "
        "where round takes halves to the even number; else it is (w, h)."
        if pads
        else f"The target is ({size}, {size})."
    )
    bars = {"reflect": "the image mirrored at its edges, whose pixels are repeated", "black": "black"}
    placed = (
        f"Where its longest side is not {size}, the image is resized again, by the same rule without the condition "
        f"(small images are enlarged). Of W×H pixels, its left is at ({size} − W) // 2 and its top at ({size} − H) "
        f"// 2 in a square of {size}×{size}; the rest is {bars[preparation.padding]}."
        if pads
        else f"The tile is the {size}×{size} pixels."
    )
    masked: Step = {
        "step": "mask",
        "boxes": preparation.masked,
        "grey": MASKED,
        "text": f"Of the image at the size at which it is placed, W×H pixels, the rows floor(t·H) to ceil(b·H) − 1 and "
        f"columns floor(l·W) to ceil(r·W) − 1 of each box (l, t, r, b) become {MASKED} in all channels.",
    }
    grey = "L = (19595 R + 38470 G + 7471 B + 32768) // 65536 (ITU-R BT.601)"
    channels = f"Colours become grey, {grey}" if preparation.channels == "grey" else "Grey is repeated in R, G and B"
    turns = ["", "mirrored", "by 180°", "mirrored and by 180°", "transposed", "by 90° clockwise"]
    return [
        {"step": "target", "text": f"(w, h) is the size in pixels as stored, before turning. {sides}"},
        {
            "step": "decode",
            "jpeg_scales": [8, 4, 2, 1],
            "jpeg_spare": SPARE,
            "text": "The first image of the file is decoded. A JPEG is decoded at 1/s of its size, with the largest s "
            f"of 8, 4, 2, 1 for which w // s and h // s are at least {SPARE} times the target, by libjpeg's scaled "
            "decoding (Pillow: `draft(mode, (w // s, h // s))`); it then has ceil(w/s) × ceil(h/s) pixels, and "
            "the image covers w/s × h/s of them. A DICOM file is rendered by its rescale and its first VOI LUT or "
            "window; MONOCHROME1 is inverted. Padding is black.",
        },
        {
            "step": "depth",
            "text": "16-bit grey v becomes (255 v + m // 2) // m with m = 255, 4095 or 65535, the smallest that is not "
            "below the largest value of the image; 16-bit colour keeps its high bytes. Palettes are expanded, and "
            "alpha is composited on black.",
        },
        {
            "step": "resize",
            "filter": "lanczos",
            "support": 3,
            "antialias": True,
            "text": "Unless (w, h) is the target, the pixels are resized to it by a Lanczos filter of support 3 with "
            "antialiasing, from the box (0, 0, w/s, h/s), each channel rounded to 8 bits, as Pillow's "
            "`resize(target, LANCZOS, box)`.",
        },
        {"step": "colour", "text": "The colour profile of an RGB or CMYK file is applied, so that colours are sRGB."},
        {
            "step": "orientation",
            "exif_tag": ORIENTATION,
            "text": f"The pixels are turned by the EXIF orientation, tag {ORIENTATION}: "
            f"{', '.join(f'{number} {turn}' for number, turn in enumerate(turns, 1) if turn)}, 7 transversed, 8 by 90° "
            "counterclockwise. Of TIFF and HEIC this is done before all other steps.",
        },
        {"step": "channels", "channels": preparation.channels, "text": f"{channels}."},
        *([masked] if preparation.masked else []),
        {"step": "place", "fit": preparation.fit, "padding": preparation.padding, "text": placed},
        {
            "step": "values",
            "divisor": 255,
            "text": "Values 0–255 are divided by 255. "
            + (
                "Grey is repeated in three channels." if preparation.channels == "grey" else "Red is the first channel."
            ),
        },
    ]


def _panel_steps(learner: TrainedLearner) -> list[Step]:
    """From tiles to a panel."""
    study = learner.study
    panels, regions = study.panels, list(study.regions)
    order = "in the natural order of their paths (digits as numbers)"
    order += f", first all of one region, then the next ({', '.join(regions)})" if regions else ""
    facts: Step = {"step": "panel", "by": panels.by, "grid": [panels.rows, panels.columns], "regions": regions}
    if learner.bags:
        text = f"All images of a {panels.by} are one set, {order}. Sets of a batch are filled up with images of NaN."
    elif panels.by == "image":
        text = "A panel shows one image."
    else:
        text = (
            f"The images of a {panels.by}, {order}, fill a grid of {panels.rows}×{panels.columns} slots, row by row "
            "from the top left; empty slots are 0. More images fill further panels."
        )
    return [facts | {"text": text}]


def _several_panels(learner: TrainedLearner) -> list[Step]:
    if learner.bags:
        return []
    pooling = learner.study.panels.pooling
    chosen = POOLINGS[pooling].chosen
    text = f"Of the outputs of several panels of the unit of a target (its `level`), the {chosen} counts."
    return [{"step": "several panels", "pooling": pooling, "text": text}]


def _scan_steps(learner: TrainedLearner) -> list[Step]:
    settings, panels = learner.study.modality_settings, learner.study.panels
    assert settings is not None
    own = settings.model_dump(mode="json")
    texts = {
        "prepare": "Each scan is prepared as the settings under `preparation.settings` state: orientation, in-plane "
        f"size ({own['in_plane_size']} pixels), bias correction ({own['bias']}), smoothing ({own['smoothing']}), "
        f"region ({own['roi']}), to slices of {learner.study.images.size}×{learner.study.images.size} pixels. These "
        "steps are involved: the dependable way is casewise's own preparation (`casewise.load_bundle` in Python).",
        "values": f"Intensities are mapped to 0–1 ({own['standardise']}), with the scan's own landmarks and the "
        "standard scale of each sequence under `fitted.standard`. Without standardisation the scan's range is mapped "
        "to 0–1.",
        "panel": "A set contains the slices of a case in order."
        if learner.bags
        else f"A panel shows {panels.slots} consecutive slices, row by row in a grid of {panels.rows}×{panels.columns} "
        f"({own['inference_windows']} window of a case).",
    }
    return [{"step": name, "text": text} for name, text in texts.items()]
