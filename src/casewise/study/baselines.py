"""Simple models that a run fits beside its networks, as floors that networks must be better than."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from casewise.study.model import StudyModel

# What a study says of a run that an earlier version made without baselines.
EARLIER = "the run was made by a version of casewise that did not fit them beside a stated recipe"


class Baselines(StudyModel):
    """Simple models on pixels and on the features of a pretrained network, fitted in every study.

    Which features are used and their penalty are chosen by inner folds of the training subjects.
    """

    off: str = ""
    """The reason for which there are none; the report prints it."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if values == "auto":
            return {}
        if isinstance(values, str) or values in (None, False, True):
            raise ValueError("write `auto`, or `{off: the reason}`, which the report prints")
        return values


def baselines_of_earlier(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a study that an earlier version saved, with the baselines that its run has.

    They were fitted where the study said so, where the recipe was planned, and where there were no networks.

    >>> baselines_of_earlier({"backbones": ["cnn"], "baselines": {"on": True, "off": ""}})["baselines"]
    {}
    >>> baselines_of_earlier({"backbones": [], "baselines": {"on": False, "off": ""}})["baselines"]
    {}
    """
    stated = values.get("baselines")
    if isinstance(stated, dict) and "on" not in stated:
        return values
    stated = stated if isinstance(stated, dict) else {}
    planned = isinstance(recipe := values.get("recipe"), dict) and recipe.get("auto")
    had = stated.get("on") or (stated and (planned or not values.get("backbones")))
    reason = stated.get("off") or ("" if had else EARLIER)
    return {**values, "baselines": {"off": reason} if reason else {}}
