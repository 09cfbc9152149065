"""The model card of a bundle, in Markdown: what the networks predict, for whom, how well, and what is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.evaluation.results import Results
from casewise.report.sections.prediction_sets import prediction_sets
from casewise.report.tables import metric_format
from casewise.report.templating import templates
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

STAGES = ("test", "external", "oof")


def model_card(
    study: Study,
    about: Mapping[str, Any],
    results: Results,
    audit: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> str:
    """The card from the contents of the bundle's files (see `casewise.pipeline.bundle`); it names no subject."""
    text = (
        templates(html=False)
        .get_template("model_card.md.j2")
        .render(
            study=study,
            about=about,
            rows=performance(study, about, results),
            audit=audit,
            provenance=provenance,
            main=results.main,
            sets=prediction_sets(study, results),
        )
    )
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


def performance(study: Study, about: Mapping[str, Any], results: Results) -> list[dict[str, str]]:
    """The headline metrics of the headline's learner, for every target and stage, as text with their intervals."""
    learner, rows = about["combination"]["headline"], []
    for stage in STAGES:
        for target in [*study.outputs, *study.scores]:
            write = metric_format(study, target)
            for metric in kind_named(study.kind_of(target)).headline:
                figure = results.figures(stage, learner, target).get(metric)
                if figure is None or figure.value is None:
                    continue
                bounds = write.bounds(metric, figure, words=True)
                rows.append(
                    {
                        "stage": stage,
                        "target": target,
                        "metric": write.title(metric),
                        "value": write.text(metric, figure.value),
                        "interval": bounds + (", rough" if bounds and figure.rough else ""),
                        "subjects": str(figure.n_subjects),
                    }
                )
    return rows
