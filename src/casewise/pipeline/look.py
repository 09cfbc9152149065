"""Panels of training cases as networks see them, before anything is trained: as they are, and varied as in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from casewise.cohort.targets import panel_values
from casewise.errors import CasewiseError, counted
from casewise.jobs.plan import fitted_rows
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.read import plan, prepare, read, split
from casewise.pipeline.recipe_plan import as_planned
from casewise.report.audit_page import FOOTER
from casewise.report.blocks import Block, Facts, Heading, Picture, Pictures, Section, Text, plain_page
from casewise.report.figures.pictures import as_picture, data_uri, grid_picture
from casewise.report.formatting import capital, case_label, class_name, display_name, three_digits
from casewise.report.sections.preparation import facts
from casewise.run_folder.artefact import TextFile
from casewise.splits.predefined import TEST
from casewise.study.model import mixed_seed

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

# Cases of each class, classes, cases of a number from the lowest to the highest, and variations of each case.
MOST_CASES, MOST_CLASSES, MOST_NUMBERS, VARIATIONS = 3, 12, 5, 4
# The longest side of a picture, and the tiles of a bag that are shown.
LONGEST, MOST_TILES = 280, 9
NOTE = "Training cases, {how}; cases of the test set are not shown. First the panel as it is predicted{varied}."
AT_RANDOM, RANKED = "drawn at random", "from the lowest to the highest value"
VARIED = ", then the same panel as training varies it"
SEVERAL = (
    " Where a panel has more images than it shows, a prediction is the mean over panels of all of them: the first one"
    " is shown as it is, and training draws from all."
)
UNVARIED = "Nothing varies in training, so that a panel looks the same in every epoch"
NO_NETWORK = "The study states no network; the plan decides whether one is trained. Baselines see the panel as it is"


def network_panels(
    prepared: PreparedCohort, splits: Splits, rows: Sequence[int], *, fold: int = 0, variations: int = 0
) -> tuple[str, list[list[NDArray[np.uint8]]]]:
    """Panels as networks see them in prediction, and drawn again as in training, by the code of training.

    Args:
        rows: the numbers of the panels among the cohort's panels.
        fold: whose training cases the preprocessing is derived from.
        variations: how often each is drawn as in training; never if panels do not vary.

    Returns:
        The name of the sequence that is shown (empty for colour or grey images), and of each panel its pictures (h, w)
        or (h, w, 3), the plain one first.

    Raises:
        CasewiseError: the images cannot be read, or nothing can be derived from the training cases.
    """
    study, modality, cpu = prepared.study, modality_of(prepared.study), torch.device("cpu")
    network, panels = study.networks[0] if study.networks else None, prepared.cohort.panels
    fitted = modality.fit(prepared.store, study, fitted_rows(study, panels, splits, fold), network)
    shown = []
    for row in rows:
        data = modality.dataset(prepared.store, study, panels.iloc[[row]], np.zeros((1, 1), np.float32), fitted)
        phases = [data.with_variations(phase.variations) for phase in study.recipe.phases] or [data]
        data = next((phase for phase in phases if phase.varied), phases[0])
        slots = data.views()[0][:1]
        drawn = [data.plain_batch(slots[:, :MOST_TILES] if data.bags else slots, cpu)[0]]
        if data.varied or study.panels.fixed:
            generator = torch.Generator().manual_seed(mixed_seed(study.seed, "look", row))
            drawn += [data.training_batch([0], generator, cpu)[0][0] for _ in range(variations)]
        shown.append([_pixels(panel) for panel in drawn])
    return modality.channels(study, network)[0] if network else "", shown


def _pixels(panel: Any) -> NDArray[np.uint8]:
    """The picture of a panel (C, H, W) in 0–1, or of some tiles of a bag (K, C, H, W) in a grid."""
    shown = panel[:MOST_TILES] if panel.ndim == 4 else panel
    values = (np.nan_to_num(np.asarray(shown, np.float32)).clip(0, 1) * 255).round().astype(np.uint8)
    if values.ndim == 3:
        return as_picture(values)
    columns = math.ceil(math.sqrt(len(values)))
    return grid_picture(values, rows=math.ceil(len(values) / columns), columns=columns)


def panels_section(prepared: PreparedCohort, splits: Splits, *, most: int = MOST_CASES) -> Section:
    """Panels of at most `most` training cases of each class, or from the lowest to the highest number."""
    study, panels, groups = prepared.study, prepared.cohort.panels, _groups(prepared, splits, most)
    noun, rows = modality_of(study).picture_noun(study).singular, [row for _, rows in groups for row in rows]
    try:
        sequence, shown = network_panels(prepared, splits, rows, variations=VARIATIONS)
    except CasewiseError as error:
        return Section("panels", "Panels", [Text(f"No panel can be shown: {error}")])
    pictures_of, strips = dict(zip(rows, shown, strict=True)), list[Block]()
    for heading, of_group in groups:
        strips.append(Heading(heading))
        for row in of_group:
            label = capital(case_label(panels.iloc[row].to_dict(), known=study.subjects_known))
            names = ["as it is", *(f"varied {number}" for number in range(1, len(pictures_of[row])))]
            pictures = [
                Picture(data_uri(pixels, longest=LONGEST), f"{label}, {name}", name)
                for name, pixels in zip(names, pictures_of[row], strict=True)
            ]
            tiles = len(panels["tiles"].iloc[row])
            some = f"{MOST_TILES} of {tiles:,} tiles" if study.panels.bags and tiles > MOST_TILES else ""
            strips.append(Pictures(pictures, ", ".join(filter(None, [label, sequence, some])), "views"))
    varied = any(len(pictures) > 1 for pictures in shown)
    classes = study.classes_of(_target(study))
    if len(classes) > MOST_CLASSES:
        strips.append(Text(f"These are the first {MOST_CLASSES} of {len(classes):,} classes.", note=True))
    then = VARIED if varied else f". {UNVARIED if study.networks else NO_NETWORK}"
    several = not study.panels.bags and any(len(panels["tiles"].iloc[row]) > study.panels.slots for row in rows)
    how = AT_RANDOM if classes else RANKED
    note = Text(NOTE.format(how=how, varied=then) + SEVERAL * several, note=True)
    prepared_by = Facts(facts(study, noun, "")[1:])  # no single case is shown
    return Section("panels", "Panels", [prepared_by, note, *strips])


def _target(study: Study) -> str:
    """The target by which cases are chosen."""
    return study.primary_outcome if study.primary_outcome in study.outputs else study.outputs[0]


def _groups(prepared: PreparedCohort, splits: Splits, most: int) -> list[tuple[str, list[int]]]:
    """The rows of panels that are shown, with their headings: of each class, or by the size of the number."""
    study, panels, target = prepared.study, prepared.cohort.panels, _target(prepared.study)
    values = panel_values(panels, study, target)
    # a validation set takes no part in training, and gives the result where there is no test set
    subjects = splits.training(0) if splits.holdout else [name for name, side in splits.side.items() if side != TEST]
    training = np.flatnonzero(panels["subject"].astype(str).isin(subjects).to_numpy() & ~np.isnan(values))
    name, order = display_name(study, target), np.random.default_rng(study.seed).permutation(training)
    if classes := study.classes_of(target):
        groups = []
        for number, of_class in enumerate(classes[:MOST_CLASSES]):
            rows = order[values[order] == number]
            cases = f"{min(most, len(rows)):,} of {counted(len(rows), 'training panel')}"
            groups.append((f"{capital(class_name(study, target, of_class))}: {cases}", rows[:most].tolist()))
        return groups
    ranked = training[np.argsort(values[training], kind="stable")]
    places = np.unique(np.linspace(0, len(ranked) - 1, min(MOST_NUMBERS, len(ranked))).round().astype(int))
    return [(f"{capital(name)} {three_digits(values[row])}", [int(row)]) for row in ranked[places]]


def look(study: Study, folder: RunFolder, show: Show, *, most: int = MOST_CASES) -> Path:
    """Write the page of panels of a study, for which its images are prepared; return its path.

    Raises:
        CasewiseError: the study, its table, split or images need a correction.
    """
    from casewise.report.context import report_title

    with folder.lock():
        cohort = read(study, folder, show)
        splits = split(study, cohort, folder, show)
        study = plan(study, cohort, splits, folder, show)
        store = prepare(study, cohort, folder, show)
        if study.recipe.auto and study.networks:
            study = as_planned(study, cohort, splits, store)
        prepared = PreparedCohort(study, cohort, folder.images(study.images.store), store)
        section = panels_section(prepared, splits, most=most)
        page = plain_page(f"Panels: {report_title(study)}", [section], kind="Input before training", footer=FOOTER)
        return TextFile(folder.panels_page).write(page)
