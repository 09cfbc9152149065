"""The linear models that every run fits beside its networks, as floors that networks must be better than."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from casewise.study.backbones import UNTRAINED
from casewise.study.model import StudyModel

if TYPE_CHECKING:
    from casewise.study.schema import Study

PIXELS, FEATURES = "linear_pixels", "linear_features"
BASELINES = (PIXELS, FEATURES)


class Baselines(StudyModel):
    """Linear models on pixels and on the features of a pretrained network, in every run.

    They take seconds. Which features are used and their penalty are chosen by inner folds of the training subjects.
    """

    off: str = Field(
        "", description="The reason for which there are none; the report prints it. Empty: they are fitted."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if values == "auto":
            return {}
        if isinstance(values, str) or values in (None, False):
            raise ValueError("write `auto`, or `{off: the reason}`, which the report prints")
        return values


def baselines_of(study: Study) -> list[str]:
    """The names of a study's baselines; that on features needs a pretrained network of the study."""
    if study.baselines.off:
        return []
    return [PIXELS, *([FEATURES] if encoder_of(study) else [])]


def encoder_of(study: Study) -> str:
    """The pretrained network whose frozen features a linear model uses; empty if the study has none.

    It is MobileNetV2 if the study has it or no network at all, else the study's first pretrained backbone.
    """
    if not study.backbones:
        return "mobilenet_v2" if study.weights == "pretrained" else ""
    names = [name.partition("@")[0] for name in study.backbones]
    pretrained = [name for name in names if name not in UNTRAINED and study.weights_of(name) == "pretrained"]
    return next((name for name in ("mobilenet_v2", *pretrained) if name in pretrained), "")
