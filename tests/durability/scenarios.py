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
COMPUTE = "compute: {{jobs: {jobs}, threads: 1, precision: fp32, memory_format: channels_last, save_every: 0}}\n"


@dataclass(frozen=True)
class Scenario:
    """A study with its cohort.

    Attributes:
        make: draws the cohort into a folder and returns its table.
        study: the study file, to be formatted with `table`.
        after: the commands after `run`, to be formatted with `run`, `out` and `table`.
    """

    name: str
    make: Callable[[Path], Path]
    study: str
    jobs: int = 1
    after: tuple[tuple[str, ...], ...] = ()

    def prepare(self, folder: Path) -> Path:
        """Draw the cohort and write the study file."""
        table = self.make(folder / "cohort")
        text = (COMMON + COMPUTE + self.study).format(table=table, jobs=self.jobs)
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
        """
extends: onestep-pasi
name: photographs
images: {{size: 32}}
split: {{test: 25%, folds: 2, restarts: 20}}
backbones: [test_resnet, test_byobnet]
baselines: {{off: tests of networks}}
recipe: {{epochs: 3, batch_size: 8, lr: 0.01, early_stopping: {{patience: 3, monitor: inner, val_fraction: 0.3}}}}
stack: [mean, ridge+intercept]
evaluation: {{bootstrap_resamples: 100, counterfactual_cases: 4}}
""",
        after=(
            ("explain", "{run}", "--map-size", "2", "--network", "test_resnet"),
            ("bundle", "{run}", "--output", "{out}/bundle.zip"),
            ("results", "{run}", "--output", "{out}/results.md"),
        ),
    ),
    Scenario(
        "photographs, two jobs",
        _photographs,
        """
extends: onestep-pasi
name: two-jobs
images: {{size: 32}}
split: {{test: 0, folds: 2, restarts: 20}}
backbones: [test_resnet]
recipe: {{epochs: 4, batch_size: 8, lr: 0.01, schedule: cosine, early_stopping: {{monitor: none}}}}
stack: [mean]
evaluation: {{bootstrap_resamples: 100, counterfactual_cases: 0}}
""",
        jobs=2,
    ),
    Scenario(
        "films",
        _films,
        """
extends: covid-cxr
name: films
images: {{size: 32, channels: grey}}
split: {{test: 25%, folds: 2, restarts: 20}}
backbones: [test_resnet]
recipe: {{epochs: 2, batch_size: 8, lr: 0.003, gradual_unfreezing: {{groups: 2, epochs: 2}}}}
stack: [mean]
final: refit
evaluation: {{bootstrap_resamples: 100, counterfactual_cases: 4}}
""",
        after=(("predict", "{run}", "{table}/images", "--output", "{out}/predictions.csv"),),
    ),
    Scenario(
        "slides",
        _slides,
        """
extends: ssc-skin
name: slides
images: {{size: 32}}
tiles: {{mpp: 4.0, max_tiles: 4}}
targets: {{disease: {{classes: [normal, ssc], positive: ssc}}}}
split: {{test: 0, folds: 2, restarts: 20}}
backbones: [test_resnet]
baselines: {{off: tests of networks}}
recipe: {{batch_size: 8, phases: [{{epochs: 3, freeze: all}}, {{epochs: 2, freeze: none, lr: 0.0001}}]}}
seeds: 2
evaluation: {{bootstrap_resamples: 100, counterfactual_cases: 0}}
""",
    ),
    Scenario(
        "volumes",
        _volumes,
        """
extends: ipmn-mri
name: volumes
targets: {{grade: [normal, high]}}
images: {{size: 32}}
volumes: {{in_plane_size: 32, bias: none, smoothing: none, fusion: [early, late]}}
split: {{test: 0, folds: 2, restarts: 20, stratify_by: grade}}
backbones: [test_resnet]
baselines: {{off: tests of networks}}
recipe: {{epochs: 3, batch_size: 8, lr: 0.001}}
nested_cv: {{folds: 2, among: false}}
evaluation: {{bootstrap_resamples: 100, counterfactual_cases: 0}}
""",
    ),
]
