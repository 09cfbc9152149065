"""The report: one self-contained HTML page from what a run has left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from casewise.files import write_atomic
from casewise.modalities.registry import modality_of
from casewise.report import formatting as wording
from casewise.report.context import ReportContext
from casewise.report.sections import (
    audit,
    cases,
    classes,
    external,
    learners,
    nested,
    slides,
    summary,
    summary_classes,
    volumes,
)
from casewise.report.sections import high_confidence as confident
from casewise.report.sections import image_split as claimed
from casewise.report.sections import saliency as explained
from casewise.report.sections import targets as sections
from casewise.report.sections import terminology as words

FOLDER = Path(__file__).parent / "templates"


def write_report(material: ReportContext, path: Path) -> Path:
    """Write the page; the same material gives the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    return write_atomic(Path(path), render(material))


def render(material: ReportContext) -> str:
    """The page as text: no request leaves it, and it can be read without its script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**context(material))


def context(material: ReportContext) -> dict[str, Any]:
    """Everything the template shows; sections that have nothing to say are None."""
    study, numbers = material.study, material.kind == "regression"
    plain = summary if numbers else summary_classes
    sentences = plain.sentences(material)
    return {
        "style": Markup((FOLDER / "report.css").read_text()),  # noqa: S704 (our own file)
        "script": Markup((FOLDER / "sort.js").read_text()),  # noqa: S704 (our own file)
        "m": material,
        "study": study,
        "numbers": numbers,
        "words": words.Words(material),
        "banners": words.banners(material),
        "warned": audit.first_screen(material),
        "predicted": words.predicted(material),
        "unlearned": words.unlearned(material),
        "sentences": [*sentences[:2], *external.plain_words(material), *sentences[2:]],
        "tiles": [*plain.tiles(material), *external.tiles(material)],
        "agreement": sections.agreement(material) if numbers else None,
        "time": sections.over_time(material) if numbers else None,
        "classes": None if numbers else classes.classes(material),
        "parts": sections.parts(material),
        "learners": learners.learners(material),
        "over_folds": nested.over_folds(material),
        "nested": nested.section(material),
        "claimed": claimed.section(material),
        "audit": audit.section(material),
        "external": external.external(material),
        "left_out": external.left_out(material),
        "labels": sections.labels(material),
        **_image_sections(material),
        "worst": cases.worst_cases(material) if numbers else None,
        "confident": None if numbers else confident.confident_errors(material),
        "explained": explained.explained(material),
        "making": sections.making(material),
        "settings": yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
        "number": wording.number,
        "signed": wording.signed,
        "interval": wording.interval,
        "duration": wording.duration,
    }


# Sections that a modality may ask for by name.
IMAGE_SECTIONS = {
    "slides": slides.section,
    "volumes": volumes.section,
    "preparation": lambda material: None if slides.is_cut(material) else cases.prepared(material),
}


def _image_sections(material: ReportContext) -> dict[str, Any]:
    """The sections that the study's modality asks for; None for the others."""
    wanted = modality_of(material.study).report_facts(material.study)["sections"]
    return {name: section(material) if name in wanted else None for name, section in IMAGE_SECTIONS.items()}
