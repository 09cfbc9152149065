"""The published values that presets name."""

import json
from pathlib import Path

import pytest

from casewise.study.loading import preset_names, read_study
from casewise.study.presets.published import publication, publications, published_lines


def test_publications_have_the_values_of_their_tables() -> None:
    pasi = {table.table: table.learners for table in publication("onestep-pasi").results}
    for learner, values in pasi["Table 1"].items():  # the same values with one digit more
        for metric, (value, _) in values.items():
            assert value == pytest.approx(pasi["Table S1"][learner][metric][0], abs=0.0051)
    ssc = {(t.stage, len(t.classes)): t.learners for t in publication("ssc-skin").results}
    right = {("validation", 2): (182, 165, 188), ("test", 2): (179, 156, 188), ("validation", 3): (178, 160, 183)}
    for key, (mobile, cnn, images) in {**right, ("test", 3): (182, 168, 192)}.items():
        assert ssc[key]["mobilenet_v2"]["accuracy"][0] == pytest.approx(mobile / images, abs=0.001)
        assert ssc[key]["cnn"]["accuracy"][0] == pytest.approx(cnn / images, abs=0.001)
    first, second = (table.learners for table in publication("ipmn-mri").results)
    assert second["vit_base_patch16_224"]["precision"] == first["vit_base_patch16_224"]["precision"] == (0.67, 0.19)
    assert len(first) == 6


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_names_a_publication_about_its_outcome(preset: str, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("subject,path\n")
    (tmp_path / "study.yaml").write_text(f"extends: {preset}\ncohort: {cohort}\n")
    study = read_study(tmp_path / "study.yaml")
    assert study.evaluation.references in publications()
    tables = publication(str(study.evaluation.references)).results
    assert any(table.is_about(study, study.primary_outcome) for table in tables)
    lines = published_lines(study, study.primary_outcome, ["mobilenet_v2", "cnn", "resnet34", "vit_base_patch16_224"])
    assert lines
    assert not published_lines(study.model_copy(update={"synthetic": True}), study.primary_outcome, list(lines))
    other = {"extends": preset, "cohort": str(cohort), "targets": {"label": ["a", "b"]}, "scores": {}}
    stratified = {**other, "primary_outcome": "label", "split": {"stratify_by": "label"}}
    (tmp_path / "other.yaml").write_text(json.dumps(stratified))
    settings = ["evaluation.bands={}"] if preset.startswith("onestep-pasi") else []
    if not settings:
        assert not published_lines(read_study(tmp_path / "other.yaml", settings=settings), "label", list(lines))
