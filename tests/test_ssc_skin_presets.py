"""The presets of the third publication, run whole with their own epochs on small synthetic biopsies."""

import json
from pathlib import Path

import pytest
import yaml

from casewise.plugins.phantoms.slides import make_regions
from casewise.run import run
from casewise.study.loading import read_study

# The weights that each phase keeps as they are, as docs/explanation-ssc-skin.md has them.
FROZEN = {
    "ssc-skin": {"mobilenet_v2": [(100, 2_223_872), (50, 19_536)]},
    "ssc-skin-as-published": {"mobilenet_v2": [(100, 2_223_872), (50, 0)]},
    "ssc-skin-cnn": {"cnn": [(120, 0)], "unet_encoder": [(120, 0)]},
    "ssc-skin-unet": {"unet_unpadded": [(120, 0)], "unet_dense": [(120, 0)]},
}


def test_optimisers_and_the_audit_of_fields(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("path,subject,disease\n")
    for preset in FROZEN:
        (path := tmp_path / "study.yaml").write_text(yaml.safe_dump({"extends": preset, "cohort": "cases.csv"}))
        study = read_study(path)
        assert study.audit.fields
        assert study.recipe.optimizer == ("sgd" if preset in ("ssc-skin-cnn", "ssc-skin-unet") else "adam")


@pytest.mark.slow
@pytest.mark.parametrize("preset", FROZEN)
def test_a_preset_runs_whole(preset: str, tmp_path: Path) -> None:
    table = make_regions(tmp_path / "cohort", subjects=10, images=1, size=(64, 64), classes=("normal", "early"))
    told = {"extends": preset, "name": preset, "cohort": str(table), "synthetic": True, "weights": "random"}
    published = preset == "ssc-skin-as-published"
    split = {"test": "20%", **({"validation": "20%"} if published else {"folds": 2})}
    told |= {
        "images": {"size": 96 if preset == "ssc-skin-unet" else 32},
        "split": split,
        "evaluation": {"bootstrap_resamples": 100},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(told))
    done = run(read_study(path), tmp_path / "run")
    assert set(done.rows["stage"]) == ({"training", "validation", "test"} if published else {"oof", "test"})
    assert done.results["classes"]["test"][next(iter(FROZEN[preset]))]["disease"]["positive"] == "ssc"
    for network, phases in FROZEN[preset].items():
        jobs = [json.loads(file.read_text()) for file in (tmp_path / "run" / "jobs" / network).glob("*/job.json")]
        assert len(jobs) == (1 if published else 2)
        for job in jobs:
            assert [(phase["epochs"], phase["frozen"]) for phase in job["phases"]] == phases
            assert len(job["history"]) == sum(epochs for epochs, _ in phases)
            assert published or set(job["on_training"]) >= {"accuracy", "sensitivity", "specificity"}
    page = done.report.read_text()
    assert "Systemic sclerosis on skin biopsies" in page
    assert "Core-seconds" in page
