"""Caveats as sentences, from their codes; and the one line of results that the command line shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from casewise.report.external_validation import external_result
from casewise.report.templating import templates
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.evaluation.results import Results
    from casewise.study.schema import Study

MOST_SOURCES = 6


def sentences(notes: Iterable[Mapping[str, Any] | str]) -> list[str]:
    """The sentence of each caveat; sentences are returned unchanged.

    >>> sentences([{"code": "few_subjects", "stage": "test", "subjects": 6}])
    ['The test set has 6 scored subjects: its intervals are rough.']
    """
    template = templates(html=False).get_template("caveats.j2")
    return [note if isinstance(note, str) else " ".join(template.render(c=note).split()) for note in notes]


def result_line(study: Study, results: Results) -> str:
    """The main outcome in one line, for the learner of the headline; empty if nothing was evaluated.

    The result on an external cohort comes first.
    """
    main = results.get("main")
    if not main:
        return ""
    stage, learner, figures = main["stage"], main["learner"], main["metrics"]
    if not figures:
        return ""
    names = kind_named(main["kind"]).headline
    block = results.get("classes", {}).get(stage, {}).get(learner, {}).get(study.primary_outcome)
    first = next(iter(figures.values()))
    within = []
    if stage == "oof" and results.get("site_means"):
        for name in names:
            mean = results["site_means"].get(learner, {}).get(name)
            if mean and mean["value"] is not None:
                value_by_source = {source: results["by_site"][source][learner][name] for source in mean["sources"]}
                within.append({"name": name, **mean, "each": value_by_source})
    line = (
        templates(html=False)
        .get_template("result_line.j2")
        .render(
            study=study,
            external=external_result(study, results, learner, stage) if stage != "external" else None,
            stage=stage,
            learner=learner,
            kind=main["kind"],
            figures={name: figures[name] for name in names if (figures.get(name) or {}).get("value") is not None},
            subjects=first["n_subjects"],
            cases=first["n_cases"],
            units=sum(block["support"]) if block else None,
            unit=study.level_of(study.primary_outcome) if block else "case",
            alone=stage == "oof" and bool(results.get("site_means")),
            within=within,
            most=MOST_SOURCES,
        )
    )
    return " ".join(line.split())
