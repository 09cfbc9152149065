"""The check of a study file, its table, its images, its split and its weights; nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.cohort.labels import panel_values
from casewise.cohort.table import names_text
from casewise.console import Silent
from casewise.errors import counted
from casewise.modalities.registry import modality_of
from casewise.pipeline.external import read_external
from casewise.pipeline.pretraining import read_pretraining
from casewise.pipeline.read import read
from casewise.pipeline.recipe_plan import stated_in_words
from casewise.splits.grouped import Splits, split
from casewise.splits.learnable import check_learnable, missing_classes
from casewise.splits.predefined import TEST
from casewise.study.learners import FEATURES, encoders_of
from casewise.study.weight_files import encoder_origin, origin_of_weights

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.study.schema import Study


def validate(study: Study, show: Show) -> list[str]:
    """Check the cohort table, the image files and the split; return lines on the sides and the networks.

    Raises:
        CasewiseError: naming every problem.
    """
    modality = modality_of(study)
    table = read(study, None, show)
    cohort = modality.whole(study, table)
    modality.check_files(study, cohort, show)
    for other, rows in _other_cohorts(study, table):
        modality.check_files(other, modality.whole(other, modality.read(other, rows, None, Silent())), show)
    splits = split(cohort, study)
    check_learnable(splits, cohort.panels, study)
    lines = number_lines(splits)
    lines += side_lines(study, splits, cohort.panels, panels=len(cohort.images) == len(table.images))
    lines += [f"{'WARNING':<10} {sentence}" for sentence in missing_classes(splits.record)]
    networks = len(study.networks) * splits.folds
    inner = networks * study.nested_cv.folds * len(study.rates) if study.nested_cv else 0
    total = f", after {counted(inner, 'inner training')}: {counted(inner + networks, 'training')} in all"
    of = f"{counted(len(study.networks), study.network_noun)} × {counted(splits.folds, 'fold')}"
    jobs = f"jobs       {of} = {counted(networks, 'network')}" + (total if inner else "")
    recipe = [f"{'recipe':<10} {stated_in_words(study)}"] if study.networks else []
    return [*lines, *weight_lines(study), *encoder_lines(study), *recipe, jobs]


def weight_lines(study: Study) -> list[str]:
    """A line for each group of networks with the same origin of their first weights, and networks without any.

    Raises:
        WeightsError: a file that the study names does not exist.
    """
    networks: dict[str, list[str]] = {}
    for name in dict.fromkeys(network.partition("@")[0] for network in study.networks):
        origin = origin_of_weights(name, study.weights_of(name), study.weights_dir)
        networks.setdefault(origin, []).append(name)
    return [f"{'weights':<10} {names_text(names, 5)}: {origin}" for origin, names in networks.items()]


def encoder_lines(study: Study) -> list[str]:
    """A line for each encoder of the baseline on features, with the origin of its weights.

    Raises:
        WeightsError: one of two files of an encoder is missing.
    """
    names = encoders_of(study) if FEATURES in study.learners else []
    return [f"{'encoder':<10} {name}: {encoder_origin(name, study.weights_dir)}" for name in names]


def _other_cohorts(study: Study, table: Cohort) -> list[tuple[Study, Cohort]]:
    """The external cohort and that for pretraining, as far as the study names them."""
    cohorts = [read_external(study, table)] if study.external else []
    return [*cohorts, *([read_pretraining(study, table)[:2]] if study.pretrain else [])]


def number_lines(splits: Splits) -> list[str]:
    """A line on a split by file numbers."""
    runs = [
        f"{side} {counted(how['runs'], 'run')} of at most {counted(how['longest_run'], 'file')}"
        for side, how in splits.record["assignment"].items()
        if "runs" in how
    ]
    return [f"{'split':<10} runs of neighbouring file numbers are on one side: {', '.join(runs)}"] if runs else []


def side_lines(study: Study, splits: Splits, rows: pd.DataFrame, *, panels: bool) -> list[str]:
    """A line for each side of the split: the source that it leaves out, its subjects, cases, and those of each class.

    `rows` are the panels of the cohort; `panels`: whether they are counted as well, which panels of tiles are not.
    """
    sources = splits.record.get("left_out") or []
    lines = []
    for side, n in splits.record["n"].items():
        if not n["subjects"]:
            continue
        number = TEST if side == "test" else int(side.removeprefix("fold ")) - 1
        counts = [counted(n["subjects"], "subject"), counted(n["cases"], "case")]
        counts += [counted(n["panels"], "panel")] if panels else []
        source = f"{study.split.leave_out} {sources[number]}: " if sources and number != TEST else ""
        lines.append(f"{side:<10} {source}{', '.join(counts)}")
        side_rows = rows[rows["subject"].map(splits.side) == number]
        for name in study.outputs:
            for code, label in enumerate(study.classes_of(name)):
                of_class = side_rows[panel_values(side_rows, study, name) == code]
                subjects, cases = of_class["subject"].nunique(), of_class["case"].nunique()
                text = f"{counted(subjects, 'subject')}, {counted(cases, 'case')}" if subjects else "none"
                lines.append(f"{'':<10}   {name} {label}: {text}")
    return lines
