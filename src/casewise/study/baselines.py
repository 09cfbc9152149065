"""Linear models that a run fits beside its networks, as floors that networks must be better than."""

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
    """Linear models on pixels and on the features of a pretrained network.

    Studies with a planned recipe and those without networks have them. Which features are used and their penalty are
    chosen by inner folds of the training subjects.
    """

    on: bool = Field(
        False,
        description="Fit them in studies that state networks and recipe, too; `baselines: auto` is short for it.",
    )
    off: str = Field("", description="The reason for which there are none; the report prints it.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if values == "auto":
            return {"on": True}
        if isinstance(values, str) or values in (None, False):
            raise ValueError("write `auto`, or `{off: the reason}`, which the report prints")
        return values


def baselines_of(study: Study) -> list[str]:
    """The names of a study's baselines; that on features needs a pretrained network of the study."""
    wanted = study.baselines.on or study.recipe.auto or not study.backbones or study.encoders
    if study.baselines.off or not wanted:
        return []
    return [PIXELS, *([FEATURES] if encoders_of(study) else [])]


def encoders_of(study: Study) -> list[str]:
    """The pretrained networks whose frozen features the linear model on features uses: the stated ones, else one."""
    return list(study.encoders) or [name for name in [encoder_of(study)] if name]


def encoder_of(study: Study) -> str:
    """The encoder of a study that states none; empty if it has no pretrained network.

    It is MobileNetV2 if the study has it or no network at all, else the study's first pretrained backbone.
    """
    if not study.backbones:
        return "mobilenet_v2" if study.weights == "pretrained" else ""
    names = [name.partition("@")[0] for name in study.backbones]
    pretrained = [name for name in names if name not in UNTRAINED and study.weights_of(name) == "pretrained"]
    return next((name for name in ("mobilenet_v2", *pretrained) if name in pretrained), "")
