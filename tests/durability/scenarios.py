"""Small studies of every modality, and the commands that are given for each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMMON = """
synthetic: true
weights: random
audit: {{permutations: 99}}
cohort: {table}
"""
COMPUTE = "compute: {{jobs: {jobs}, threads: 1, precision: fp32, save_every: 0}}\n"


@dataclass(frozen=True)
class Scenario:
    """A study with its cohort; the settings of its own are in `studies`.

    Attributes:
        make: draws the cohort into a folder and returns its table.
        after: the commands after `run`, to be formatted with `run`, `out` and `table`.
    """

    name: str
    make: Callable[[Path], Path]
    jobs: int = 1
    after: tuple[tuple[str, ...], ...] = ()

    def prepare(self, folder: Path) -> Path:
        """Draw the cohort and write the study file."""
        table = self.make(folder / "cohort")
        text = (COMMON + COMPUTE).format(table=table, jobs=self.jobs)
        name = self.name.replace(", ", "-").replace(" ", "-")
        text += (Path(__file__).parent / "studies" / f"{name}.yaml").read_text()
        (folder / "study.yaml").write_text(text, encoding="utf-8")
        return folder / "study.yaml"

    def commands(self, study: Path, work: Path) -> list[list[str]]:
        """The command lines, which write into `work` only."""
        values = {"run": str(work / "run"), "out": str(work), "table": str(study.parent / "cohort")}
        after = [[word.format(**values) for word in command] for command in self.after]
        return [["run", str(study), "--output", values["run"], "--quiet"], *after]


def _photographs(folder: Path) -> Path:
    from casewise.plugins.phantoms.psoriasis import make_psoriasis

    return make_psoriasis(folder, subjects=8, visits=2, size=(96, 64), seed=3)


def _films(folder: Path) -> Path:
    from casewise.plugins.phantoms.chest import make_chest

    return make_chest(folder, subjects=24, size=(64, 64), seed=1)


def _slides(folder: Path) -> Path:
    from casewise.plugins.phantoms.slides import make_slide_phantom

    classes = ("normal", "late")
    return make_slide_phantom(folder, subjects=6, images=2, classes=classes, size=(640, 520), mpp=2.0, seed=3)


def _volumes(folder: Path) -> Path:
    from casewise.plugins.phantoms.pancreas import make_pancreas

    return make_pancreas(folder, subjects=12, size=(32, 32), classes=("normal", "high"), seed=6)


SCENARIOS = [
    Scenario(
        "photographs",
        _photographs,
        after=(
            ("explain", "{run}", "--map-size", "2", "--network", "test_resnet"),
            ("bundle", "{run}", "--output", "{out}/bundle.zip"),
            ("results", "{run}", "--output", "{out}/results.md"),
        ),
    ),
    Scenario("photographs, two jobs", _photographs, jobs=2),
    Scenario("films", _films, after=(("predict", "{run}", "{table}/images", "--output", "{out}/predictions.csv"),)),
    Scenario("slides", _slides),
    Scenario("volumes", _volumes),
]
