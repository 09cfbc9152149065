"""The answers of the interface, for its description; further columns of the output table are passed on as they are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Health(BaseModel):
    """The service answers."""

    status: str = Field(description="`ok`.")


class Problem(BaseModel):
    """What is wrong with a request, and what to do."""

    code: str = Field(description="For programs, such as `unreadable`.")
    message: str = Field(description="For people.")
    files: list[str] = Field(description="The names of the files concerned, as the client gave them.")


class ErrorAnswer(BaseModel):
    """The answer to a request that was refused."""

    error: Problem


class TargetDescription(BaseModel):
    """A target or score of the model."""

    name: str
    title: str
    kind: str
    score: bool = Field(description="Computed from targets by a formula.")
    primary: bool
    level: str = Field(description="What has one value: a case, a region or an image.")
    range: list[float] | None
    classes: list[str]
    bands: dict[str, float] = Field(description="Severity bands: name and lower bound.")


class ModelDescription(BaseModel):
    """The model."""

    model_config = ConfigDict(extra="allow")
    name: str
    title: str
    notice: str
    synthetic: bool
    checksum: str = Field(description="The SHA-256 of the bundle's manifest; empty for a run folder.")
    learner: str
    primary_outcome: str
    targets: list[TargetDescription]
    regions: list[str]
    sequences: list[str]
    slots: list[str] = Field(description="The names of the fields for images; empty for the single field `image`.")
    coverage: float | None = Field(description="The share of cases whose interval or set should contain the reference.")
    card: str = Field(description="The model card, in Markdown.")


class TargetResult(BaseModel):
    """A prediction of one target, for a case, region or image."""

    model_config = ConfigDict(extra="allow")
    target: str
    title: str
    region: str
    image: str
    prediction: float | str | None
    prediction_low: float | None
    prediction_high: float | None
    interval_note: str
    spread: float | None = Field(description="The standard deviation over the networks of the folds.")
    distance: float | None = Field(description="From the training images; 1 in 20 held-out cases exceeds 1.")
    beyond: bool | None
    flags: list[str] = Field(description="Why the case is unlike the training cases; empty if it is not.")
    problem: str
    band: str | None = None
    probabilities: dict[str, float | None] | None = None
    prediction_set: list[str] | None = None


class Flag(BaseModel):
    """What the results of a visit should be read with."""

    code: str
    message: str


class VisitResult(BaseModel):
    """The results of one visit."""

    visit: str
    day: float | None
    images: list[dict[str, str]]
    results: list[TargetResult]
    flags: list[Flag]


class TrajectoryVisit(BaseModel):
    """The primary outcome at one visit."""

    visit: str
    number: int
    day: float | None
    value: float
    low: float | None
    high: float | None
    is_baseline: bool
    change: float | None = Field(description="Percent from the baseline; negative is better.")
    response: dict[str, bool] = Field(description="By threshold in percent.")


class Trajectory(BaseModel):
    """The course of the primary outcome, in the order of time."""

    target: str
    title: str
    baseline: str | None
    clear_at: float | None
    visits: list[TrajectoryVisit]


class Prediction(BaseModel):
    """The answer of /api/predict."""

    model: dict[str, Any]
    notice: str
    visits: list[VisitResult]
    trajectory: Trajectory | None


class MapPicture(BaseModel):
    """A saliency map over an original image."""

    visit: int
    file: str
    region: str
    explained_class: str = Field(description="The class that the map is about; empty for a number.")
    method: str
    signed: bool
    empty: bool
    flat: bool
    note: str
    width: int
    height: int
    original: str = Field(description="A data URL.")
    overlay: str = Field(description="A data URL.")


class Explanation(BaseModel):
    """The answer of /api/explain."""

    model: dict[str, Any]
    learner: str
    learner_title: str
    target: str
    title: str
    signed: bool
    meaning: str = Field(description="What the maps show, in words.")
    maps: list[MapPicture]
