"""Maps carried back to the pixels and voxels that a case came as, and written beside what they lie on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.explain.finished_run import FinishedRun
from casewise.explain.inverse_mapping import EMPTY, onto_picture, onto_scan, onto_slide, onto_slots
from casewise.explain.overlays import save_overlay, save_scan
from casewise.explain.saliency import SaliencyMap
from casewise.modalities.slides.cohort import FOLDER, slide_of

if TYPE_CHECKING:
    from casewise.modalities.volumes.scans import Scan
    from casewise.modalities.volumes.slice_store import CaseSources


def plain_name(text: str) -> str:
    """A case, network or sequence as the name of a file.

    >>> plain_name("P01/week 4"), plain_name("vit@early")
    ('P01_week-4', 'vit@early')
    """
    return re.sub(r"[^\w@.+-]+", "-", text.replace("/", "_")).strip("-.") or "unnamed"


class Originals:
    """What the cases came as, each read once however many networks are explained."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self._case = ""
        self._scans: list[Scan | None] = []
        self._sources: CaseSources | None = None

    def write(self, looks: Sequence[SaliencyMap], channels: tuple[str, ...], folder: Path) -> dict[str, list[Path]]:
        """Write the maps of one network of one case into `folder`; the files by sequence, of images under ''."""
        if channels != ("",):
            return {
                name: self._onto_scan(looks[0], number, name, folder)
                for number, name in enumerate(channels)
                if not np.isnan(looks[0].each[:, number]).all()
            }
        images = self.run.cohort.images
        if "tile_side" in images and any(
            int(images["tile_side"].iloc[n]) >= 0 for n in looks[0].slots.ravel() if n >= 0
        ):
            return {"": self._onto_slides(looks, folder)}
        return {"": self._onto_images(looks, folder)}

    def _slots(self, look: SaliencyMap, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps (V, H, W) cut into their places: (V·K, h, w), and what stands there, (V·K,)."""
        panels = self.run.study.panels
        cut = onto_slots(maps, rows=panels.rows, columns=panels.columns)
        return cut.reshape(-1, *cut.shape[2:]), look.slots.reshape(-1)

    def _onto_images(self, looks: Sequence[SaliencyMap], folder: Path) -> list[Path]:
        from casewise.modalities.store.readers import read_image

        study, images = self.run.study, self.run.cohort.images
        maps: dict[int, list[np.ndarray]] = {}
        for look in looks:
            for tile, number in zip(*self._slots(look, look.maps), strict=True):
                if number != EMPTY:
                    maps.setdefault(int(number), []).append(tile)
        written = []
        for number, tiles in maps.items():
            path = Path(images["path"].iloc[number])
            picture = read_image(path, channels=study.images.channels)
            picture = picture[..., 0] if picture.shape[2] == 1 else picture
            height, width = picture.shape[:2]
            large = onto_picture(np.mean(tiles, axis=0), width=width, height=height, keep_ratio=study.images.keep_ratio)
            written.append(save_overlay(folder / f"{number}-{plain_name(path.stem)}.png", picture, large))
        return written

    def _onto_slides(self, looks: Sequence[SaliencyMap], folder: Path) -> list[Path]:
        run, images = self.run, self.run.cohort.images
        found: dict[str, list[tuple[np.ndarray, Any]]] = {}
        for look in looks:
            for tile, number in zip(*self._slots(look, look.maps), strict=True):
                if number != EMPTY and int(images["tile_side"].iloc[number]) >= 0:
                    box = images[["tile_x", "tile_y", "tile_side"]].iloc[number].to_numpy(dtype=int)
                    found.setdefault(str(images["path"].iloc[number]), []).append((tile, box))
        written = []
        for path, parts in found.items():
            slide = slide_of(run.study, path, run.files.images().of(FOLDER))
            picture = slide.read_picture()
            step = slide.size[0] / picture.shape[1]
            tiles, boxes = np.stack([tile for tile, _ in parts]), np.stack([box for _, box in parts])
            large = onto_slide(tiles, boxes, width=slide.size[0], height=slide.size[1], downsample=step)
            height, width = picture.shape[:2]
            laid = np.full((height, width), np.nan, np.float32)
            rows, columns = min(height, large.shape[0]), min(width, large.shape[1])
            laid[:rows, :columns] = large[:rows, :columns]
            written.append(save_overlay(folder / f"{plain_name(Path(path).stem)}.png", picture, laid))
        return written

    def _onto_scan(self, look: SaliencyMap, channel: int, name: str, folder: Path) -> list[Path]:
        run = self.run
        assert run.study.volumes is not None
        assert run.slices is not None
        sources, scan = self._scan(look.row, run.study.volumes.sequences.index(name))
        if scan is None:
            return []
        maps, slots = self._slots(look, look.each[:, channel])
        values = onto_scan(maps, slots, run.slices.affines[look.row], scan.shape, scan.affine)
        if not run.study.volumes.slice_index:
            return [save_scan(folder / f"{plain_name(name)}.nii.gz", values, scan.affine)]
        from casewise.modalities.store.readers import read_image

        written = []
        paths = sources.paths[run.study.volumes.sequences.index(name)]
        for place in sorted({int(slot) for slot in slots if slot != EMPTY}):
            picture = read_image(paths[place], channels="grey")[..., 0]
            file = folder / f"{plain_name(name)}-{place + 1:03d}-{plain_name(paths[place].stem)}.png"
            written.append(save_overlay(file, picture, values[:, :, place].T))
        return written

    def _scan(self, row: int, sequence: int) -> tuple[CaseSources, Scan | None]:
        from casewise.modalities.volumes.case_files import source_of
        from casewise.modalities.volumes.case_loader import scans_of

        case = str(self.run.cohort.panels["case"].iloc[row])
        if case != self._case or self._sources is None:
            self._sources = source_of(self.run.study, self.run.cohort, row)
            self._scans, self._case = scans_of(self._sources), case
        return self._sources, self._scans[sequence]
