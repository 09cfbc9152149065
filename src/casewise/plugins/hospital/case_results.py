"""The predictions of one case, without regard to a format, and the facts of the model that made them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from casewise.errors import RunError
from casewise.inference.case_chunks import LEFT_OUT, CasePicture, PredictedChunk
from casewise.inference.flag_reasons import UNCONFIRMED, joined, possible_reasons, reasons_of
from casewise.inference.output_table import FLAGGED, NOT_FINITE
from casewise.plugins.hospital.imaging_study import ImagingStudy, NoStudyError
from casewise.predictions.table import FAR
from casewise.report.formatting import plain
from casewise.run_folder import RunFolder
from casewise.study.model import parse_range
from casewise.study.scores import Score
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel

RESEARCH = (
    "Predicted by research software, which is not a medical device. No person has checked the result. Do not base a "
    "decision about a patient on it."
)
# In place of texts that may contain names of the table or of files.
UNREADABLE = "The case could not be read. The table of predictions states why."
UNLIKE = "unlike the training images"
UNCONFIRMED_SOURCE = f"The model is {UNCONFIRMED}: no probability, interval or set is stated."


@dataclass(frozen=True)
class ModelFacts:
    """The facts about the model in results.

    Attributes:
        name: the name of its study.
        checksum: the SHA-256 of the bundle's manifest, which lists the checksum of every other file.
        classes: the names of the classes of each target; empty for numbers.
        scores: the scores of the study by name, in their order.
        coverage: the share of cases that intervals and sets are meant to contain; None if nothing was calibrated.
        synthetic: whether the model was trained on synthetic images.
        flags: every reason by which it flags cases.
        result: the main figures of its study, in one line; empty if nothing was evaluated.
        audited: what the study's audit found, and that no other source was tested; empty where there is nothing to say.
        headline: the learner that `audited` and `result` are about.
        titles: of targets and scores, for people.
    """

    name: str
    checksum: str
    classes: Mapping[str, Sequence[str]]
    scores: Mapping[str, Score]
    coverage: float | None = None
    synthetic: bool = False
    flags: tuple[str, ...] = ()
    result: str = ""
    audited: str = ""
    headline: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    version: str = __version__

    @classmethod
    def of(cls, model: TrainedModel) -> ModelFacts:
        """Those of a bundle.

        Raises:
            RunError: the model is a run folder or a single network, which has no checksum of its own.
        """
        if not model.checksum:
            own = RunFolder(model.folder).bundle
            way = f"Give {own.path}" if own.exists() else "Give a bundle"
            raise RunError(
                f"{model.folder} is not a bundle, and results for hospitals name the bundle by its checksum. {way}, or "
                "the file that `casewise bundle` writes."
            )
        first = model.members[0]
        scores = {
            name: Score(name, entry["formula"], entry["level"], *map(float, parse_range(entry["range"])))
            for name, entry in first.settings["scores"].items()
        }
        level = model.combination.intervals.get("level")
        return cls(
            name=str(model.about.get("title") or model.about.get("name") or "model"),
            checksum=model.checksum,
            classes={name: tuple(classes) for name, classes in model.table.classes.items()},
            scores=scores,
            coverage=None if level is None else float(level),
            synthetic=bool(model.about.get("synthetic")),
            flags=possible_reasons(model.limits) if model.limits else (),
            result=str(model.about.get("result", "")),
            audited=str(model.about.get("audited", "")),
            headline=model.headline,
            titles={name: str(title) for name, title in model.about.get("display", {}).items()},
        )


@dataclass(frozen=True)
class Value:
    """One prediction, or the reason why there is none.

    Attributes:
        prediction: a number, the name of a class or grade, or None.
        probabilities: of each class, by name; empty for numbers.
        low: the lower end of the prediction interval of a number; None without one.
        high: its upper end.
        members: the classes of the prediction set.
        note: why there is no interval, or which classes are in every set.
        distance: from the training cases, where 1 is the distance that at most one in twenty held-out cases exceeds.
        flags: why the case is unlike the training cases.
        problem: why there is no prediction.
        source: the file of the image, which is not written.
    """

    learner: str
    target: str
    region: str = ""
    image: str = ""
    prediction: float | str | None = None
    probabilities: Mapping[str, float] | None = None
    low: float | None = None
    high: float | None = None
    members: tuple[str, ...] = ()
    note: str = ""
    distance: float | None = None
    flags: str = ""
    problem: str = ""
    source: Path | None = None

    @property
    def unconfirmed(self) -> bool:
        """Whether its confidence is withheld, because nobody has confirmed the source of its batch."""
        return UNCONFIRMED in reasons_of(self.flags)

    @property
    def caution(self) -> str:
        """Why it is not an answer by itself, in a few words that stand beside it everywhere; empty otherwise."""
        if self.unconfirmed:
            return "not confirmed for this source"
        return "unlike the training cases" if self.flags or (self.distance or 0) > FAR else ""

    @property
    def location(self) -> str:
        """The region and the name of the image, for people; empty for a whole case."""
        return ", ".join(text for text in (self.region, Path(self.image).name) if text)

    @property
    def title(self) -> str:
        """The target with its region and image."""
        return f"{self.target} ({self.location})" if self.location else self.target


@dataclass(frozen=True)
class CaseResult:
    """All predictions of a case.

    Attributes:
        subject: as the table names it, or a hash; `case` and `visit` alike.
        visit: empty if the table has no visits.
        sources: the files of its images, or folders of DICOM series.
        key: a hash of bundle and case, the same with and without names.
        named: whether it has names, and may state whom and what study it is about.
        subject_system: the URI of the system that identifies subjects; empty if it is not stated.
        pictures: the images with their saliency maps; empty where none were computed.
        at: when it was predicted.
    """

    case: str
    subject: str
    visit: str
    sources: tuple[Path, ...]
    values: tuple[Value, ...]
    key: str = ""
    named: bool = True
    subject_system: str = ""
    pictures: Sequence[CasePicture] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def study(self) -> ImagingStudy:
        """The study of its images, read once.

        Raises:
            NoStudyError: no image is DICOM.
            CasewiseError: one is not DICOM, cannot be read, lacks an identifier, or is of another patient.
        """
        return ImagingStudy.of(self.sources)

    def unique(self, *names: str) -> UUID:
        """An identifier of something of this case: the same whenever the same bundle predicts the same case again."""
        return unique(self.key, *names)

    def image_key(self, value: Value) -> str:
        """The identity of a value's image, valid in other folders if it is DICOM; empty for a whole case."""
        if value.source is None:
            return ""
        try:
            headers = self.study.of_file(value.source)
        except NoStudyError:
            headers = []
        return str(headers[0].SOPInstanceUID) if headers else str(value.source)


@dataclass(frozen=True)
class Quantity:
    """A prediction that stands for itself, with the values that its formula is computed from."""

    main: Value
    inputs: tuple[Value, ...] = ()


def results_of(
    chunk: PredictedChunk, facts: ModelFacts, *, names: bool = False, subject_system: str = ""
) -> Iterator[CaseResult]:
    """The cases of a chunk in their order, without rows that name no subject.

    Args:
        names: whether they have the names of the table and of files, instead of hashes and fixed texts.
        subject_system: the URI of the system that identifies subjects.
    """
    for case, rows in chunk.table.groupby("case", sort=False):
        if not case:
            continue
        first = rows.iloc[0]
        values = tuple(_value(row, facts) for row in rows.to_dict("records"))
        visit = str(first["visit"]) if chunk.has_visits else ""
        result = CaseResult(
            str(case),
            str(first["subject"]),
            visit,
            chunk.sources.get(str(case), ()),
            values,
            key=digest(facts.checksum, str(case)),
            subject_system=subject_system,
            pictures=chunk.pictures.get(str(case), ()),
        )
        result = result if names else _without_names(result, facts)
        yield replace(result, values=with_uncomputed(result.values, facts))


def _without_names(result: CaseResult, facts: ModelFacts) -> CaseResult:
    """The same with hashes instead of names, and fixed texts instead of those that may contain a name."""
    return replace(
        result,
        case=_hashed(facts, result.case),
        subject=_hashed(facts, result.subject),
        visit=result.visit and _hashed(facts, result.subject, result.visit),
        values=tuple(nameless(value, facts) for value in result.values),
        named=False,
        subject_system="",
    )


def nameless(value: Value, facts: ModelFacts) -> Value:
    """A value with a hash instead of its image, and fixed texts for flags and problems that may contain a name."""
    # a reason may follow the name of a file
    flags = joined(
        next((text for text in facts.flags if reason == text or reason.endswith(f": {text}")), UNLIKE)
        for reason in reasons_of(value.flags)
    )
    problem = value.problem
    if problem.startswith(FLAGGED):
        problem = f"{FLAGGED} ({flags})."
    elif problem not in ("", NOT_FINITE, LEFT_OUT):
        problem = UNREADABLE
    return replace(value, image=value.image and f"image {_hashed(facts, value.image)}", flags=flags, problem=problem)


def _hashed(facts: ModelFacts, *names: str) -> str:
    return f"hashed-{digest(facts.checksum, *names)[:16]}"


def _value(row: Mapping[Any, Any], facts: ModelFacts) -> Value:
    names = facts.classes.get(row["target"], ())
    predicted, problem = row["prediction"], str(row["problem"])
    names_in_set = str(row["prediction set"]).split(" | ")
    shares = {name: _number(row[f"probability of {name}"]) for name in names}
    return Value(
        learner=str(row["learner"]),
        target=str(row["target"]),
        region=str(row["region"]),
        image=str(row["image"]),
        prediction=None if problem else str(predicted) if names else _number(predicted),
        probabilities={name: share for name, share in shares.items() if share is not None},
        low=_number(row["prediction low"]),
        high=_number(row["prediction high"]),
        members=tuple(name for name in names if name in names_in_set),
        note=str(row["interval note"]),
        distance=_number(row["distance"]),
        flags=str(row["flags"]),
        problem=problem,
        source=Path(row["image"]) if row["image"] else None,
    )


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def with_uncomputed(values: Sequence[Value], facts: ModelFacts) -> tuple[Value, ...]:
    """The values of a case, and a reason for each score that could not be computed, such as for a missing region."""
    lacking = []
    for learner in dict.fromkeys(value.learner for value in values):
        own = [value for value in values if value.learner == learner]
        computed = {value.target for value in own}
        lacking += [_uncomputed(score, learner, own) for name, score in facts.scores.items() if name not in computed]
    return (*values, *lacking)


def quantities(result: CaseResult, facts: ModelFacts) -> Iterator[Quantity]:
    """The scores of a case, each with the inputs of its formula, and the targets that no score uses."""
    used = {name for score in facts.scores.values() for name in score.targets}
    for learner in dict.fromkeys(value.learner for value in result.values):
        values = [value for value in result.values if value.learner == learner]
        for score in facts.scores.values():
            for value in (value for value in values if value.target == score.name):
                yield Quantity(value, tuple(_inputs(score, value, values)))
        for value in values:
            if value.target not in facts.scores and value.target not in used:
                yield Quantity(value)


def _inputs(score: Score, value: Value, values: Sequence[Value]) -> Iterator[Value]:
    for name, region in score.references:
        for other in values:
            same = score.level == "case" or (other.region, other.image) == (value.region, value.image)
            if other.target == name and same and region in (None, other.region):
                yield other


def _uncomputed(score: Score, learner: str, values: Sequence[Value]) -> Value:
    present = {(value.target, value.region) for value in values if value.prediction is not None}
    names = {name for name, _ in present}
    lacking = [
        f"{name}[{region}]" if region else name
        for name, region in score.references
        if (name not in names if region is None else (name, region) not in present)
    ]
    reason = f"It could not be computed, because the case has no {', '.join(lacking)}." if lacking else ""
    return Value(learner, score.name, problem=reason or "It could not be computed from the values of the case.")


def of_study(values: Sequence[Value], facts: ModelFacts) -> list[str]:
    """The findings of the study's audit, and its figures; empty unless they are about the learner that predicted."""
    if facts.headline and any(value.learner != facts.headline for value in values):
        return []
    return [*filter(None, [facts.audited]), *([f"In its study: {facts.result}."] if facts.result else [])]


def remarks(values: Sequence[Value], facts: ModelFacts) -> list[str]:
    """Sentences for a person who reads the results: what they are, their intervals, and what limits them."""
    sentences = [RESEARCH, *of_study(values, facts)]
    several = len({value.learner for value in values}) > 1
    for value in values:
        title = f"{value.title}, {value.learner}" if several else value.title
        if value.prediction is None:
            sentences.append(f"{title}: no prediction. {value.problem}")
        else:
            sentences += [f"{title}: {text}." for text in uncertainty(value, facts)]
    return sentences + limits(values, facts)


def uncertainty(value: Value, facts: ModelFacts) -> Iterator[str]:
    """The interval or set of a prediction in words, and the note about it."""
    share = f"{100 * facts.coverage:g}% " if facts.coverage is not None else ""
    if value.low is not None and value.high is not None:
        yield f"{share}prediction interval {value.low:.4g} to {value.high:.4g}"
    if value.members:
        yield f"{share}prediction set: {', '.join(map(plain, value.members))}"
    if value.note:
        yield value.note


def limits(values: Sequence[Value], facts: ModelFacts) -> list[str]:
    """Sentences on why the figures of the model may not apply."""
    sentences = [UNCONFIRMED_SOURCE] if any(value.unconfirmed for value in values) else []
    sentences += ["The model was trained on synthetic images."] if facts.synthetic else []
    reasons = [[reason for reason in reasons_of(value.flags) if reason != UNCONFIRMED] for value in values]
    flags = "; ".join(dict.fromkeys(map(joined, filter(None, reasons))))
    if flags:
        end = "" if flags.endswith("?") else "."
        sentences.append(
            f"The case is unlike the training cases: {flags}{end} The model's figures may not apply to it."
        )
    if any(value.distance is not None and value.distance > FAR for value in values):
        sentences.append(
            "The case is farther from the training cases than at least 19 of 20 held-out cases of the study; the "
            "figures of the model may not apply to it."
        )
    return sentences


def digest(*names: str) -> str:
    """A SHA-256 of names, which tells their order and their ends."""
    return hashlib.sha256(json.dumps(names, ensure_ascii=True).encode()).hexdigest()


def unique(*names: str) -> UUID:
    """A UUID of 122 bits of the SHA-256 of names.

    >>> unique("bundle", "case")
    UUID('abdfdb26-78c2-5c5c-8277-1874c4e56871')
    """
    return UUID(digest(*names)[:32], version=5)
