"""A study of a data frame in one call of Python."""

from pathlib import Path

import pandas as pd
import pytest

import casewise
from casewise.errors import CasewiseError


def frame_of(chests: Path) -> pd.DataFrame:
    table = pd.read_csv(chests)
    return table.assign(path=[str(chests.parent / path) for path in table["path"]])[["path", "subject", "label"]]


def test_a_data_frame_is_fitted_and_continued(chests: Path, tmp_path: Path) -> None:
    frame = frame_of(chests)
    changes = {"backbones": [], "budget": 60}
    run = casewise.fit(frame, tmp_path / "study", target="label", **changes)
    assert len(run.cohort) == len(frame)
    assert run.report.is_file()
    again = casewise.fit(frame, tmp_path / "study", target="label", **changes)
    pd.testing.assert_frame_equal(again.metrics, run.metrics)
    assert casewise.read_study(tmp_path / "study" / "fit.yaml").budget == 60
    for other in ({"target": "subject"}, {"target": "label", "subject": "label"}):
        with pytest.raises(CasewiseError):
            casewise.fit(frame, tmp_path / "study", **other, **changes)
    with pytest.raises(CasewiseError):
        casewise.fit(frame, tmp_path / "study", target="label")
    with pytest.raises(CasewiseError, match=r"table\.csv"):
        casewise.fit(frame[:-1], tmp_path / "study", target="label", **changes)


def test_an_empty_data_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match="no rows"):
        casewise.fit(pd.DataFrame({"path": []}), tmp_path / "study")
