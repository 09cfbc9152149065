"""What `init` joined is the same for `predict`, external cohorts and Python: patterns, tables, presets and doubts."""

import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import casewise
from casewise.cohort.cohort import read_cohort
from casewise.cohort.folder_layout import read_new_layout, stated_pattern
from casewise.errors import CasewiseError, CohortError
from casewise.inference.new_cases import NewTable
from casewise.pipeline.external import read_external
from casewise.plugins.init.key_names import words
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_joining import Name, arrange, pictures, plain, planned, scores, written  # noqa: F401

REGIONS = ["upper", "trunk", "lower"]
NAMES: list[Name] = [
    plain,
    lambda s, v, region, n: f"S{s:02}/V{v}/{region}{n}.png",
    lambda s, v, region, n: f"pat{s}_week{v}_{region}_{n:02}.png",
    lambda s, v, region, n: f"week {v}/S{s:02} {region}/{n}.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_pattern_that_init_prints_is_one_of_predict(
    name: Name,
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = arrange(pictures, tmp_path / "photos", name)
    plan = planned("onestep-pasi", written({"s.csv": scores}, tmp_path), images, tmp_path / "study")
    (sentence,) = [line for line in plan.understood if line.startswith("Images: ")]
    text = re.search(r"read as (.*)\.$", sentence)
    assert text
    pattern = stated_pattern(text[1], of_cases=True)
    layout = read_new_layout(images, regions=REGIONS, pattern=pattern)
    rows = {row["path"]: row for row in table_of(tmp_path / "study")}
    assert len(layout.images) == len(rows) == 144
    for image in layout.images:
        row = rows[image.path]
        assert (words(row["subject"])[-1:], row["region"]) == (words(image.subject)[-1:], image.region)
        assert words(row["visit"], "visit")[-1:] == words(image.visit, "visit")[-1:]


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("{subject}/{visit}/{region}{n}.jpg", "S01/V0/upper12.jpg", {"region": "upper", "n": "12"}),
        ("{subject}/{visit}/{region}*.jpg", "S01/V0/upper12.jpg", {"subject": "S01", "region": "upper"}),
        ("{subject}_{n}{region}.jpg", "P1_3lower.jpg", {"n": "3", "region": "lower"}),
        ("{site}-{subject}_v{visit}_{n}.jpg", "02-007_v3_1.jpg", {"site": "02", "subject": "007", "visit": "3"}),
        ("{label}/{patient}/{file}", "mild/P1/a.jpg", {"subject": "P1"}),
        ("{subject}_{n}.jpg", "P1_a.jpg", {"subject": "P1", "n": "a"}),
    ],
)
def test_one_grammar_of_patterns(pattern: str, path: str, values: dict[str, str]) -> None:
    for of_cases in (False, True):
        own = stated_pattern(pattern, of_cases=of_cases)
        assert values.items() <= (own.read(path) or {}).items()
        assert len(own.readings(path, REGIONS)) == 1


@pytest.mark.parametrize("pattern", ["{subjct}/{file}", "{subject}/{regoin}_{n}.jpg", "{subject}/{sequense}.nii"])
def test_a_misspelt_name_is_no_column(pattern: str) -> None:
    with pytest.raises(CasewiseError, match="Did you mean"):
        stated_pattern(pattern)


@pytest.fixture
def joined(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The folder of a study whose S06 has no photographs."""
    images = arrange(pictures, tmp_path / "photos", lambda s, *rest: plain(s, *rest) if s < 6 else "")
    planned("onestep-pasi", written({"s.csv": scores}, tmp_path), images, tmp_path / "study")
    return tmp_path / "study"


def test_a_table_of_init_is_an_external_cohort(joined: Path, tmp_path: Path) -> None:
    def outside(**settings: Any) -> pd.DataFrame:
        study = read_study(joined / "study.yaml", external={"name": "other", "subjects": "distinct", **settings})
        return read_external(study, read_cohort(study))[1].images

    (line,) = [text for text in (joined / "study.yaml").read_text().splitlines() if text.startswith("# external: ")]
    import yaml

    stated = yaml.safe_load(line.removeprefix("# "))["external"]
    assert len(outside(**stated)) == 120
    with pytest.raises(CohortError) as error:
        outside(cohort=joined / "cohort.csv")
    assert f"external: {{root: {tmp_path / 'photos'}}}" in str(error.value)
    assert "120 problems" in str(error.value)
    # a row that lost its path without saying so is still a problem
    table = pd.read_csv(joined / "cohort.csv", dtype=str)
    table.loc[0, "path"] = ""
    table.to_csv(joined / "cohort.csv", index=False)
    study = read_study(joined / "study.yaml")
    for where in ({}, {"image_found": "yes"}):
        with pytest.raises(CohortError, match="row 2, path"):
            read_cohort(study.model_copy(update={"where": where}))


def test_a_table_without_paths_names_the_commands(joined: Path, scores: pd.DataFrame, tmp_path: Path) -> None:  # noqa: F811
    scores.to_csv(tmp_path / "new.csv", index=False)
    study = read_study(joined / "study.yaml", cohort=tmp_path / "new.csv", root=tmp_path / "photos")
    with pytest.raises(CohortError) as error:
        NewTable(study, own=True).cells()
    for text in (f"--table {tmp_path / 'new.csv'} --images {tmp_path / 'photos'}", f"MODEL {tmp_path / 'photos'}"):
        assert text in str(error.value)


def test_a_preset_in_python_and_doubts_without_a_screen(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = arrange(pictures, tmp_path / "photos", lambda s, *rest: plain(s, *rest) if s < 6 else "")
    options: dict[str, Any] = {"images": images, "extends": "onestep-pasi", "backbones": [], "stack": []}
    options |= {"weights": "random", "split": {"by": "subject", "test": 0, "folds": 2}}
    with caplog.at_level(logging.WARNING, "casewise"):
        run = casewise.fit(scores, tmp_path / "study", show=False, **options)
    assert (len(run.cohort), run.study.primary_outcome) == (120, "pasi")
    assert any("S06 week0" in record.getMessage() for record in caplog.records)
    with pytest.raises(CasewiseError, match="and extends"):
        casewise.fit(scores, tmp_path / "study", images=images, target="area", show=False)
    with pytest.raises(CasewiseError, match="onestep-pasi"):
        casewise.fit(scores, tmp_path / "other", images=images, extends="onestep-pasy", show=False)
    with pytest.raises(CasewiseError, match="target"):
        casewise.fit(scores, tmp_path / "other", images=images, extends="onestep-pasi", target="area", show=False)
    assert not (tmp_path / "other" / "study.yaml").exists()
