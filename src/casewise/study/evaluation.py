"""How the cohort is audited and how predictions are evaluated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from casewise.study.model import MetricName, StudyModel


class Audit(StudyModel):
    """What the audit examines, in addition to the usual columns."""

    columns: list[str] | None = Field(
        None,
        description="Further columns of the table that should not predict the targets. [The usual "
        "ones](howto-audit.md#what-is-examined) are always examined; a column that is known to predict them needs a "
        "reason in `accept`.",
    )
    mask: str | None = Field(
        None,
        description="Column with the mask of each image's anatomy, a path from `root`. The rest of the image is then "
        "examined separately.",
    )
    permutations: int = Field(
        999, ge=99, le=100_000, description="Number of permutations of labels between subjects behind each p-value."
    )


class Evaluation(StudyModel):
    """How predictions are evaluated."""

    bootstrap_resamples: int = Field(2000, ge=100, description="Number of resamples of subjects behind each interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of the intervals.")
    bands: dict[str, float] = Field(
        {},
        description="Severity bands of the primary outcome: names and lower bounds, such as `{clear: 0, mild: 1}`.",
    )
    response: bool = Field(
        True,
        description="Compute the change from baseline. `false` if a lower score is not better, or visits are not "
        "follow-ups.",
    )
    baseline: str = Field("first", description="`first`: each subject's first scored visit. Or the name of a visit.")
    missing_baseline: Literal["refuse", "leave_out"] = Field(
        "refuse", description="What to do with subjects who lack a named baseline visit."
    )
    responders: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        [50, 75, 90, 100], description="Percentages by which a score must have fallen to count as a response."
    )
    readers: dict[str, dict[str, str]] = Field(
        {},
        description="Columns with the scores of readers: `{score: {reader: column}}`. The report compares the "
        "agreement between readers with that of the model.",
    )
    references: dict[str, dict[str, dict[MetricName, float]]] = Field(
        {},
        description="Published metrics, shown on a results page with those of the study: `{target: {name: {mae: "
        "1.42, pcc: 0.67}}}`.",
    )
    target_sensitivities: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.9],
        description="For classes and grades: sensitivities for which a threshold is chosen out of fold, in addition "
        "to Youden's threshold: `[0.9, 0.95]`.",
    )

    counterfactual_cases: int = Field(
        50,
        ge=0,
        le=1000,
        description="Number of held-out cases of each network that it predicts again with altered images: cropped, "
        "recompressed, brighter and so on. [How often the answer changes](howto-audit.md#altered-images) is reported. "
        "`0` omits it.",
    )

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("bands need two names or more, each with a different lower bound")
        return value
