"""Published results of other studies, listed in a study file or taken from a publication that casewise has."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, TypeAdapter

from casewise.errors import none_of
from casewise.study.model import StudyModel, check_metric

if TYPE_CHECKING:
    from casewise.study.schema import Study

FOLDER = resources.files("casewise.study.presets.published")
# Values are of these cases; "" is not known.
Stage = Literal["train", "validation", "test", "folds", ""]
Metrics = dict[str, float]


def _class_metric(name: str) -> str:
    """A metric, or `metric[class]`."""
    check_metric(name.partition("[")[0])
    return name


def _mean_and_sd(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value, None)


Value = Annotated[tuple[float, float | None], BeforeValidator(_mean_and_sd)]
Name = Annotated[str, AfterValidator(_class_metric)]


class PublishedTable(StudyModel):
    """One table of a publication: `learners` are values and standard deviations over folds by learner and metric."""

    table: str = ""
    stage: Stage = ""
    cases: str = ""
    score: str = ""
    classes: list[str] = []
    learners: dict[str, dict[Name, Value]]

    def is_about(self, study: Study, target: str) -> bool:
        """Whether it reports this score, or a target with the same classes."""
        if self.classes:
            return target in study.targets and set(study.classes_of(target)) == set(self.classes)
        return target == self.score


class Publication(StudyModel):
    """What a publication reports, and facts of its design by name."""

    source: str
    design: dict[str, str] = {}
    results: list[PublishedTable] = []


def named_in(name: str, learners: Collection[str]) -> str:
    """The learner that a publication means: a network of several sequences may have its fusion in its name.

    >>> named_in("resnet18", ["resnet18@early"]), named_in("resnet18", ["resnet34"])
    ('resnet18@early', 'resnet18')
    """
    early = f"{name}@early"
    return early if name not in learners and early in learners else name


def publications() -> list[str]:
    """The names of publications that `evaluation.references` may name."""
    return sorted(item.name.removesuffix(".yaml") for item in FOLDER.iterdir() if item.name.endswith(".yaml"))


def check_publication(name: str) -> str:
    """Return the name of a publication."""
    if name not in publications():
        raise ValueError(f"the publication {none_of(name, publications())}")
    return name


@lru_cache
def publication(name: str) -> Publication:
    """A publication by its name, which `check_publication` accepts."""
    import yaml

    return TypeAdapter(Publication).validate_python(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def published_by(study: Study) -> Publication:
    """What the study's references report; without references an empty one."""
    references = study.evaluation.references
    if isinstance(references, str):
        return publication(references)
    tables = [
        PublishedTable(
            score=target,
            learners={name: {metric: (v, None) for metric, v in values.items()} for name, values in by_name.items()},
        )
        for target, by_name in references.items()
    ]
    return Publication(source="", results=tables)


def published_lines(study: Study, target: str, learners: Collection[str]) -> dict[str, Metrics]:
    """By name the published values of whole cases that a table of the study's learners shows.

    Of a publication, these are its test values (or means over folds) of the same learners, and none beside synthetic
    images, which are easier or harder than the published ones.
    """
    own = isinstance(study.evaluation.references, dict)
    if study.synthetic and not own:
        return {}
    lines: dict[str, Metrics] = {}
    for table in published_by(study).results:
        if not table.is_about(study, target) and not (own and table.score == target):
            continue
        if table.stage in ("train", "validation"):
            continue
        for name, values in table.learners.items():
            shown = {metric: value for metric, (value, _) in values.items() if own or "[" not in metric}
            if shown and (own or named_in(name, learners) in learners):
                lines.setdefault(name if own else named_in(name, learners), {}).update(shown)
    return lines
