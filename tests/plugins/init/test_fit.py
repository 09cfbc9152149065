"""A study of a data frame in one call of Python."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import casewise
from casewise.errors import CasewiseError


def frame_of(chests: Path) -> pd.DataFrame:
    table = pd.read_csv(chests)
    return table.assign(path=[str(chests.parent / path) for path in table["path"]])[["path", "subject", "label"]]


def test_a_data_frame_is_fitted_and_continued(chests: Path, tmp_path: Path) -> None:
    frame = frame_of(chests)
    changes: dict[str, Any] = {"backbones": [], "budget": 60, "images": {"size": 64}}
    run = casewise.fit(frame, tmp_path / "study", target="label", **changes)
    assert len(run.cohort) == len(frame)
    assert run.report.is_file()
    (tmp_path / "roc.png").write_bytes((chests.parent / pd.read_csv(chests)["path"][0]).read_bytes())
    again = casewise.fit(frame, tmp_path / "study", target="label", **changes)
    pd.testing.assert_frame_equal(again.metrics, run.metrics)
    written = (tmp_path / "study" / "study.yaml").read_text()
    study = casewise.read_study(tmp_path / "study" / "study.yaml")
    assert (study.budget, study.images.size) == (60, 64)
    for other in ({"target": "subject"}, {"target": "label", "subject": "label"}):
        with pytest.raises(CasewiseError, match="study of another"):
            casewise.fit(frame, tmp_path / "study", **other, **changes)
    with pytest.raises(CasewiseError, match="another table"):
        casewise.fit(frame[:-1], tmp_path / "study", target="label", **changes)
    for wrong in ({"budgte": 60}, {"budget": "soon"}):
        with pytest.raises(CasewiseError):
            casewise.fit(frame, tmp_path / "study", target="label", **wrong)
    assert (tmp_path / "study" / "study.yaml").read_text() == written


def test_a_corrected_call_finds_nothing_of_the_wrong_one(chests: Path, tmp_path: Path) -> None:
    frame = frame_of(chests)
    with pytest.raises(CasewiseError, match="budget"):
        casewise.fit(frame, tmp_path / "study", target="label", budgte=60)
    assert not (tmp_path / "study").exists()
    run = casewise.fit(frame, tmp_path / "study", target="label", subject="subject", backbones=[], budget=60)
    assert run.report.is_file()


def test_a_call_that_failed_in_the_run_does_not_block_its_folder(chests: Path, tmp_path: Path) -> None:
    frame, study = frame_of(chests), tmp_path / "study"
    changes: dict[str, Any] = {"target": "label", "backbones": [], "budget": 60}
    with pytest.raises(CasewiseError):
        casewise.fit(frame[:3], study, **changes)
    table = tmp_path / "table.csv"
    frame[:3].to_csv(table, index=False)
    with pytest.raises(CasewiseError):
        casewise.fit(table, study, images=chests.parent, **changes)
    frame.to_csv(table, index=False)  # mended in place
    run = casewise.fit(table, study, images=chests.parent, **changes)
    assert len(run.cohort) == len(frame)
    assert run.study.classes_of("label") == sorted(frame["label"].unique())


def test_a_study_of_somebody_is_not_replaced(chests: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: mine\n")
    with pytest.raises(CasewiseError, match="another folder"):
        casewise.fit(frame_of(chests), tmp_path, target="label")
    assert (tmp_path / "study.yaml").read_text() == "name: mine\n"
