"""How subjects are divided: the split into folds and a test set, and the inner folds of nested cross-validation."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from casewise.errors import cut
from casewise.study.model import Fraction, StudyModel, refuse


class Split(StudyModel):
    """Test set and folds, by subject.

    `by: image` adds a split by image, as in many publications, for comparison only: the study is trained again with
    images of one subject on both sides, and the report shows the figures that this would have given. `by: number` keeps
    runs of neighbouring file numbers on one side where subjects are not known.
    """

    by: Literal["subject", "image", "number"] = "subject"
    """`subject`: all images of a subject are on one side. `number`, only with `subjects_known: false`: [runs of
    neighbouring file numbers](howto-split.md#subjects-that-are-not-known). `image` adds a split by image, for
    comparison only."""
    validation: Fraction | Literal["column"] | None = None
    """A [hold-out design](howto-split.md#one-validation-set-instead-of-folds): a fraction of the subjects (with
    `column`, of its `train`), or `column`, whose `validation` it is. The others outside the test set train one network
    for each backbone, and there are no folds. Default: folds."""
    test: Fraction = 0.1
    """Fraction of subjects in the test set. `0`: there is no test set, and the report shows out-of-fold figures."""
    folds: int = Field(5, ge=2, le=50)
    """Number of folds into which the other subjects are divided, and of networks trained for each backbone."""
    stratify_by: str | None = None
    """Target or score that is similar on all sides. Default: the primary outcome, or the first target."""
    restarts: int = Field(1000, ge=1, le=100_000)
    """Number of greedy assignments of subjects in random orders, and of random ones; the most balanced one with every
    class on every side where possible is kept."""
    equal_sizes: bool = True
    """The folds have equal numbers of subjects. `false`: numbers may differ where this balances the labels better. The
    test set keeps its fraction of subjects."""
    column: str | None = None
    """Column with [the split](howto-split.md): `train`, `validation` or `test`, or the number of the fold from 1."""
    leave_out: str | None = None
    """Column whose values are left out in turn, one for each fold: `source`. `test` and `folds` then have no effect.
    [More](howto-external.md#leave-one-source-out)."""

    @field_validator("by", mode="before")
    @classmethod
    def _check_by(cls, value: Any) -> Any:
        if value not in ("subject", "image", "number"):
            raise ValueError(
                f"a split by {cut(value)} puts images of one subject on both sides, and all its results are too "
                "optimistic. Write 'subject'; 'image' adds such results for comparison only, and 'number' is for "
                "images whose subjects are not known"
            )
        return value

    @property
    def holdout(self) -> bool:
        """Whether a validation set takes the place of folds."""
        return self.validation is not None

    @model_validator(mode="after")
    def _check_source(self) -> Split:
        if self.leave_out and self.column:
            raise ValueError("leave_out and column both state the held-out subjects; give one")
        if self.leave_out and self.by == "number":
            raise ValueError("leave_out states the held-out subjects; leave out `by: number`")
        if not self.equal_sizes and (self.leave_out or self.by == "number"):
            raise ValueError("equal_sizes: false is for folds of subjects; leave out `leave_out` and `by: number`")
        if self.holdout:
            self._check_validation()
        return self

    def _check_validation(self) -> None:
        share = self.validation
        problems: dict[str, object] = {
            "validation: 'column' needs `column`, which names the column with train and validation": share == "column"
            and not self.column,
            "validation must be more than 0; leave it out for folds": share == 0,
            "validation and test leave no subjects for training; lower one of them": share != "column"
            and float(share or 0) + self.test >= 1,
            "validation replaces the folds; leave out `leave_out`": self.leave_out,
            "validation needs sides by subject; leave out `by: number`": self.by == "number",
            "equal_sizes: false is for folds; leave out `validation`": not self.equal_sizes,
        }
        refuse(problems)


class NestedCV(StudyModel):
    """Nested cross-validation: inner folds of the training subjects choose settings before a network is trained.

    `lr` lists candidate learning rates that replace the recipe's. With `among`, the study's networks are candidates as
    well: the learner `nested` predicts each fold by the network with the lowest inner loss there.
    """

    folds: int = Field(3, ge=2, le=10)
    """Inner folds, by subject, into which each fold's training subjects are divided; the same for all networks."""
    epochs: bool = True
    """Choose the number of epochs, up to `recipe.epochs`, by the mean inner loss; `false`: train all."""
    lr: list[Annotated[float, Field(gt=0)]] = []
    """Candidate learning rates, instead of `recipe.lr`; each is trained on every inner fold."""
    among: bool = True
    """Choose among the study's networks as well, for the learner `nested`."""

    @field_validator("lr", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("lr")
    @classmethod
    def _check_duplicates(cls, value: list[float]) -> list[float]:
        duplicate = next((rate for rate, count in Counter(value).items() if count > 1), None)
        if duplicate is not None:
            raise ValueError(f"{duplicate:g} is listed twice")
        return value
