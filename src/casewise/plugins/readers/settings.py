"""The key `reading` of a study file: how readers score its cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from casewise.errors import cut, none_of
from casewise.study.model import Fraction, StudyModel, refuse
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

Consensus = Literal["mean", "median", "majority", "adjudication"]
# The rules that suit each kind of target.
RULES: dict[str, tuple[Consensus, ...]] = {
    "regression": ("mean", "median", "adjudication"),
    "ordinal": ("median", "majority", "adjudication"),
    "classification": ("majority", "adjudication"),
}
DEFAULT_CONSENSUS: dict[str, Consensus] = {"regression": "mean", "ordinal": "median", "classification": "majority"}
SEVERITY = {"0": "none", "1": "slight", "2": "moderate", "3": "severe", "4": "very severe"}
AREA = {"0": "0 %", "1": "1 to 9 %", "2": "10 to 29 %", "3": "30 to 49 %", "4": "50 to 69 %"}
AREA |= {"5": "70 to 89 %", "6": "90 to 100 %"}
# Fredriksson and Pettersson, Severe psoriasis: oral therapy with a new retinoid, Dermatologica 157 (1978), 238-244.
PASI = dict.fromkeys(("erythema", "induration", "desquamation", "scaling"), SEVERITY) | {"area": AREA}
REASONS = ("poor quality", "wrong view or body part", "not in the image", "other")


def _as_text(value: object) -> object:
    """A number as text: YAML reads the grade 0 as a number."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


class Reading(StudyModel):
    """How readers score the cases, and how their scores become labels: [Reader studies](howto-readers.md)."""

    targets: list[str] = []
    """What readers score. Default: every target of the study; scores such as `pasi` are computed from them."""
    steps: dict[str, Annotated[float, Field(gt=0)]] = {}
    """The smallest difference between two values of a number, such as `{extent: 0.5}`. Default: 1 for whole numbers,
    else the largest power of ten that is at most a hundredth of the range."""
    anchors: dict[str, Literal["pasi"] | dict[Annotated[str, BeforeValidator(_as_text)], str]] = {}
    """What a value means, shown to readers: `{grade: {0: no sign, 1: mild}}`. `pasi`: the published grades of erythema,
    induration, scaling and area, which targets of these names have in a study with the score `pasi`."""
    reasons: list[str] = list(REASONS)
    """Why a case cannot be judged; a reader chooses one."""
    repeat: Fraction = 0.1
    """Share of the cases that each reader scores a second time, without notice. A case never comes again at once, so at
    most three quarters of a session can come again; of fewer than 40 cases, at least half of them."""
    longitudinal: bool = False
    """Whether a reader sees earlier visits of the subject; each subject's visits are then read in their order, and none
    is read twice."""
    consensus: dict[str, Consensus] = {}
    """How several readers become one label. Default: the `mean` of numbers, the `median` of grades and whole
    numbers (of two, the lower), and the `majority` of classes, where a tie stays empty. `adjudication`: the value of an
    adjudication session, and where readers agree, theirs."""
    disagreement: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Readers who differ by more than this disagree, and the case is offered for adjudication. Default: 0 for classes
    and grades, else a tenth of the range."""
    reference: str = ""
    """What the labels of the study rest on, such as `histology`, if not on these readers: readers and model are then
    also compared with the labels."""
    margin: dict[str, Annotated[float, Field(gt=0)]] = {}
    """By how much the model's error may exceed a reader's without being called worse, stated before the comparison: a
    distance for numbers and grades, and for classes a share of agreement (0.05 is five percentage points)."""

    def check_with(self, study: Study) -> None:
        """Check that targets exist, and that rules suit their kinds.

        Raises:
            ValueError: beginning with the key.
        """
        options = list(study.targets)
        named = {"targets": self.targets, "steps": self.steps, "anchors": self.anchors, "consensus": self.consensus}
        named |= {"disagreement": self.disagreement}
        for key, names in named.items():
            for name in names:
                refuse({f"reading.{key}: {none_of(name, options)}": name not in options})
        outputs = [*options, *study.scores]
        for name in self.margin:
            refuse({f"reading.margin: {none_of(name, outputs)}": name not in outputs})
        for name, rule in self.consensus.items():
            rules = RULES[kind_named(study.kind_of(name)).metrics_of]
            refuse({f"reading.consensus.{name}: for its kind, {none_of(rule, rules)}": rule not in rules})
        for name in self.disagreement:
            classes = kind_named(study.kind_of(name)).metrics_of == "classification"
            refuse({f"reading.disagreement.{name}: classes are equal or not; leave it out": classes})
        for name, step in self.steps.items():
            number = kind_named(study.kind_of(name)).form == "number"
            refuse({f"reading.steps.{name}: {cut(name)} has classes, which have no step": not number})
            low, high = study.range_of(name)
            refuse(
                {
                    f"reading.steps.{name}: a step of {step:g} is larger than the range of {high - low:g}": step
                    > high - low
                }
            )
        for name, stated in self.anchors.items():
            unknown = stated == "pasi" and name not in PASI
            refuse({f"reading.anchors.{name}: `pasi` has meanings of {', '.join(PASI)} only": unknown})
        refuse({"reading.reasons: state one reason or more": not self.reasons})


class ReadingKeys(StudyModel):
    """The key `reading`."""

    reading: Reading = Reading()
    """How readers score the cases with `casewise rate`. No network depends on it. [More](howto-readers.md)."""
