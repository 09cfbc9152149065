"""Pictures of a run for its figures: one image from file to augmented panel, one of each class, and saliency maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import CasewiseError
from casewise.inference.explainer import explainer
from casewise.report.figures.paper import Shown
from casewise.report.formatting import capital, class_name
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.analysis.run import Run

MOST_PHOTOGRAPHS, MOST_PANELS, MOST_MAPS, AUGMENTED = 8, 4, 8, 2


def reduced(pixels: np.ndarray, *, side: int, grey: bool) -> np.ndarray:
    """A picture no larger than `side`; with `grey` in shades of grey, as the publication of One-Step PASI has them.

    >>> reduced(np.full((8, 4, 3), 90, np.uint8), side=4, grey=True).shape
    (4, 2)
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = image.convert("L") if grey else image
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _side(run: Run, *, grey: bool) -> int:
    """The longest side of a shown photograph: in greys no more detail than networks see."""
    return run.study.images.size if grey else max(400, run.study.images.size)


def examples(run: Run, *, grey: bool) -> list[Shown]:
    """One picture of each class of the primary outcome: the first case of the table with one.

    Raises:
        CasewiseError: the outcome has no classes, or its images cannot be read.
    """
    outcome = run.study.primary_outcome
    if not (classes := run.study.classes_of(outcome)):
        raise CasewiseError(f"{outcome} has no classes")
    truth = run.rows[(run.rows["target"] == outcome) & run.rows["y_true"].notna()]
    pictures = []
    for number, name in enumerate(classes):
        of_class = set(truth.loc[truth["y_true"] == number, "case"].astype(str))
        panels = run.finished.cohort.panels
        rows = np.flatnonzero(panels["case"].astype(str).isin(of_class))
        shown = next((picture for row in rows[:20] if (picture := _input(run, int(row), grey=grey)) is not None), None)
        if shown is not None:
            pictures.append(Shown(shown, capital(class_name(run.study, outcome, name))))
    if not pictures:
        raise CasewiseError("the images of this run have no pictures")
    return pictures


def _input(run: Run, row: int, *, grey: bool) -> np.ndarray | None:
    """A picture of one panel row of the cohort: its first image, otherwise the input of the networks."""
    finished = run.finished
    numbers = [int(n) for n in finished.cohort.panels["tiles"].iloc[row] if int(n) >= 0]
    if inputs := _network_inputs(run, row):
        return reduced(inputs[0].pixels, side=_side(run, grey=grey), grey=grey)
    pixels = finished.modality.picture(finished.prepared, numbers[0]) if numbers else None
    return None if pixels is None else reduced(pixels, side=_side(run, grey=grey), grey=grey)


def preparation(run: Run, *, grey: bool) -> list[Shown]:
    """The images of one case, its first panels, and these augmented as in training.

    The case has the most images, and of these the highest reference.

    Raises:
        CasewiseError: the images cannot be read.
    """
    finished, rows = run.finished, _illustrated(run)
    pictures: list[Shown] = []
    for line, row in enumerate(map(int, rows[:MOST_PANELS])):
        panel = finished.cohort.panels.iloc[row]
        numbers = [int(n) for n in panel["tiles"] if int(n) >= 0][:MOST_PHOTOGRAPHS]
        region = str(panel["region"] or "")
        inputs = _network_inputs(run, row)
        for position, number in enumerate([] if inputs else numbers, 1):
            pixels = finished.modality.picture(finished.prepared, number)
            if pixels is not None:
                title = f"{capital(region) or 'Image'} {position}"
                pictures.append(Shown(reduced(pixels, side=_side(run, grey=grey), grey=grey), title, line))
        pictures += [Shown(picture.pixels, picture.title, line) for picture in [*inputs, *_panels(run, row, grey=grey)]]
    if not pictures:
        raise CasewiseError("the images of this run have no pictures")
    return pictures


def _illustrated(run: Run) -> np.ndarray:
    """The panel rows of the case with the most images, and of these the highest reference."""
    panels, outcome = run.finished.cohort.panels, run.study.primary_outcome
    counts = panels["tiles"].map(len).groupby(panels["case"].astype(str), sort=False).sum()
    truth = run.rows[(run.rows["target"] == outcome) & run.rows["y_true"].notna()]
    highest = truth.groupby(truth["case"].astype(str))["y_true"].max().reindex(counts.index).fillna(-np.inf)
    case = max(counts.index, key=lambda name: (counts[name], highest[name]))
    return np.flatnonzero(panels["case"].astype(str) == case)


def _fold(run: Run, row: int) -> int:
    subject = str(run.finished.cohort.panels["subject"].iloc[row])
    return max(0, run.finished.splits.side[subject])


def _network_inputs(run: Run, row: int) -> list[Shown]:
    """The central panel of each sequence as the fold's networks see it; empty for photographs."""
    from casewise.jobs.plan import fitted_rows

    finished = run.finished
    rows = fitted_rows(run.study, finished.cohort.panels, finished.splits, _fold(run, row))
    fitted = finished.modality.fit(finished.prepared.store, run.study, rows, None)
    return [Shown(shown.pixels, shown.name) for shown in finished.modality.preview(finished.prepared, row, fitted)]


def _panels(run: Run, row: int, *, grey: bool) -> Iterator[Shown]:
    """A panel as models see it in prediction, and drawn twice as in the training of networks, if there are any."""
    from casewise.pipeline.look import network_panels

    finished = run.finished
    sequence, (shown,) = network_panels(
        finished.prepared,
        finished.splits,
        [row],
        fold=_fold(run, row),
        variations=AUGMENTED if run.study.trained else 0,
    )
    for number, pixels in enumerate(shown):
        name = f"Augmented {number}" if number else "Panel"
        title = f"{name} ({sequence})" if sequence else name
        yield Shown(reduced(pixels, side=max(pixels.shape[:2]), grey=grey), title)


def saliency(run: Run, *, grey: bool) -> list[Shown]:
    """The stored saliency maps of a run: a row for each panel, the input first, then each learner's map over it.

    Raises:
        CasewiseError: there are none, or they lie over colours that are not to be shown.
    """
    from PIL import Image

    maps = explainer()
    if maps is None:
        raise CasewiseError("saliency maps need the plugin 'explain', which is not installed here")
    stored = maps.stored(run.files)
    if not stored or not stored.get("shown"):
        raise CasewiseError(f"there are no saliency maps of these networks; run `casewise explain {run.folder}`")
    folder, pictures = Path(stored["shown"]["folder"]), []
    panels = [panel for case in stored["shown"]["cases"] for panel in case["rows"]]
    for line, panel in enumerate(panels[:MOST_MAPS]):
        files = [(panel["input"], f"{panel['name']} {panel['reference']}".strip())]
        files += [
            (saliency["file"], f"{learner_name(saliency['network'])}: {saliency['predicted']}")
            for saliency in panel["maps"]
        ]
        for file, title in files:
            if not (folder / file).is_file():
                raise CasewiseError(f"{folder / file} is missing; run `casewise explain {run.folder}` again")
            with Image.open(folder / file) as image:
                pixels = np.asarray(image.convert("RGB"))
            if grey and file == panel["input"] and int(np.ptp(pixels.astype(int), axis=2).max()) > 2:
                raise CasewiseError("maps lie over pictures in colour, which --grey does not show")
            pictures.append(Shown(reduced(pixels, side=400, grey=False), title, line))
    return pictures
