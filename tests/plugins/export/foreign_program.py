"""A program that knows an export by `preprocessing.json` alone, without casewise."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Values = dict[str, np.ndarray]


class Exported:
    """A learner of an export."""

    def __init__(self, folder: Path, learner: str) -> None:
        described: Any = json.loads((folder / "preprocessing.json").read_text())
        self.folder, self.format = folder, described["graphs"]
        (self.facts,) = [entry for entry in described["learners"] if entry["learner"] == learner]
        self.steps = {step["step"]: step for step in self.facts["preparation"]["steps"]}
        self.size = self.facts["preparation"]["images"]["size"]

    def tile(self, path: Path) -> np.ndarray:
        """An image file as (size, size, channels) from 0 to 1."""
        place, decode, size = self.steps["place"], self.steps["decode"], self.size
        pads = place["fit"] == "pad"
        image: Image.Image = Image.open(path)
        turn = image.getexif().get(self.steps["orientation"]["exif_tag"], 1)
        width, height = image.size
        target = self._within(width, height) if pads and max(width, height) > size else (width, height)
        target = target if pads else (size, size)
        scale = 1
        if image.format == "JPEG":
            spare = decode["jpeg_spare"]
            fits = (s for s in decode["jpeg_scales"] if min(width // s // target[0], height // s // target[1]) >= spare)
            scale = next(fits, 1)
            if scale > 1:
                image.draft(None, (width // scale, height // scale))
                assert image.size == (math.ceil(width / scale), math.ceil(height / scale))
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            most = next(m for m in (255, 4095, 65535) if values.max() <= m)
            image = Image.fromarray(((255 * values + most // 2) // most).astype(np.uint8))
        elif image.mode == "RGBA":
            black = Image.new("RGB", image.size)
            black.paste(image, mask=image.getchannel("A"))
            image = black
        lanczos = Image.Resampling.LANCZOS
        if target != (width, height):
            image = image.resize(target, lanczos, box=(0, 0, width / scale, height / scale))
        image = image.transpose(Image.Transpose.ROTATE_270) if turn == 6 else image
        image = image.convert("L" if self.steps["channels"]["channels"] == "grey" else "RGB")
        inner = self._within(*image.size) if pads else (size, size)
        pixels = np.asarray(image if image.size == inner else image.resize(inner, lanczos))
        pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
        bars = ((top, size - inner[1] - top), (left, size - inner[0] - left), (0, 0))
        filled = np.pad(pixels, bars, mode="symmetric") if place["padding"] == "reflect" else np.pad(pixels, bars)
        return filled.astype(np.float32) / self.steps["values"]["divisor"]

    def _within(self, width: int, height: int) -> tuple[int, int]:
        longest = max(width, height)
        return max(1, round(width * self.size / longest)), max(1, round(height * self.size / longest))

    def panel(self, paths: Sequence[Path]) -> np.ndarray:
        """The images of a case as one panel of the graph."""
        if len(self.facts["inputs"][0]["shape"]) == 5:  # a set of images
            return np.stack([self.tile(path).transpose(2, 0, 1) for path in paths])[None]
        rows, columns = self.steps["panel"]["grid"]
        panel = np.zeros((rows * self.size, columns * self.size, 3), np.float32)
        for slot, path in enumerate(paths):
            down, across = slot // columns * self.size, slot % columns * self.size
            panel[down : down + self.size, across : across + self.size] = self.tile(path)
        return np.ascontiguousarray(panel.transpose(2, 0, 1)[None])

    def values(self, panel: np.ndarray) -> Values:
        """The outputs of the graph."""
        names = [output["name"] for output in self.facts["outputs"]]
        if self.format == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(self.folder / self.facts["file"]))
            computed = session.run(names, {entry["name"]: panel for entry in self.facts["inputs"]})
        else:
            import torch

            module: Any = torch.jit.load(str(self.folder / self.facts["file"]))
            inputs = [torch.from_numpy(panel)] * len(self.facts["inputs"])
            computed = [value.detach().numpy() for value in module(*inputs)]
        return dict(zip(names, computed, strict=True))

    def test(self) -> tuple[float, float]:
        """The largest differences of the reference image's panel and of its outputs, in units of what is tolerated."""
        test = self.facts["self_test"]
        panel = np.load(self.folder / test["panel"], allow_pickle=False)
        own = self.panel([self.folder / test["image"]]) if test["image"] else panel
        outputs = [
            np.abs(values[0] - test["outputs"][name]).max() / test["output_tolerances"][name]
            for name, values in self.values(own).items()
        ]
        return float(np.abs(own - panel).max() / test["panel_tolerance"]), float(max(outputs))
