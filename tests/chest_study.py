"""A small study of chest phantoms that trains in about a second, for the tests of whole runs."""

from pathlib import Path
from typing import Any

from casewise.study.loading import build_study
from casewise.study.schema import Study

THREE = ["covid", "no_finding", "pneumonia"]
SMALL: dict[str, Any] = {"name": "chest", "synthetic": True, "images": {"size": 64, "channels": "grey"}}
SMALL |= {"panels": {"by": "image"}, "split": {"test": 0.25, "folds": 2, "restarts": 20}}
SMALL |= {"baselines": {"off": "tests of networks"}, "backbones": ["test_resnet"], "weights": "random"}
SMALL["recipe"] = {"epochs": 2, "batch_size": 8, "optimizer": "radam", "schedule": "one-cycle", "label_smoothing": 0.1}
SMALL |= {"evaluation": {"bootstrap_resamples": 200, "response": False, "counterfactual_cases": 0}}
SMALL |= {"audit": {"permutations": 99}}
SMALL |= {"compute": {"jobs": 1, "precision": "fp32"}}
# Changes for a run that is only read.
FAST: dict[str, Any] = {"split": {"test": 0, "folds": 2, "restarts": 5}, "recipe": {"epochs": 1}}
FAST |= {"evaluation": {"bootstrap_resamples": 100}}
FAST |= {"accept": {"twins-across-subjects": "phantoms of 64 pixels look alike"}}


def chest_study(table: Path, label: Any = None, **changes: Any) -> Study:
    """The small study on a table, with settings laid over its own."""
    merged = {
        key: {**SMALL[key], **value} if isinstance(value, dict) and isinstance(SMALL.get(key), dict) else value
        for key, value in changes.items()
    }
    values = {**SMALL, "cohort": table, "targets": {"label": label or THREE}, **merged}
    return build_study(values, source="the test's study", folder=table.parent)


def chest_run_study(table: Path, label: Any = None, **changes: Any) -> Study:
    """The study of the fixture `chest_run`, on a table."""
    return chest_study(table, label, **{"test_time_augmentation": True, **changes})


# A study without recipe and networks, to be formatted with its `cohort`.
PLANNED = """
cohort: {cohort}
synthetic: true
images: {{size: 32}}
targets: {{label: [no_finding, covid, pneumonia]}}
split: {{test: 0, folds: 2, restarts: 20}}
weights: random
budget: 1min
audit: {{permutations: 99}}
evaluation: {{bootstrap_resamples: 200, response: false, counterfactual_cases: 0}}
compute: {{precision: fp32}}
"""
