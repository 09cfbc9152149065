"""Participants: the flow from the table to the cohort, and the characteristics of each side."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.participants import Flow, cases_step, characteristics, described_columns
from tests.chest_study import chest_study


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Path:
    """The chest phantoms with missing ages, another view, and an empty label."""
    rows = pd.read_csv(chests, dtype=str, keep_default_na=False)
    rows["path"] = [str(chests.parent / path) for path in rows["path"]]
    rows["lung_mask"] = ""
    pneumonia, others = rows.index[rows["label"] == "pneumonia"], rows.index[rows["label"] != "pneumonia"]
    rows.loc[others[:2], "view"] = "LL"
    rows.loc[others[2:5], "age"] = ""
    rows.loc[others[5], "label"] = ""
    rows.loc[pneumonia[0], "view"] = "LL"
    path = tmp_path_factory.mktemp("flow") / "cases.csv"
    rows.to_csv(path, index=False)
    return path


def settings(**evaluation: Any) -> dict[str, Any]:
    evaluation = {"bootstrap_resamples": 200, **evaluation}
    return {"label": ["covid", "no_finding"], "where": {"view": "PA"}, "evaluation": evaluation}


@pytest.fixture(scope="module")
def cohort(table: Path) -> Cohort:
    return read_cohort(chest_study(table, **settings()))


class TestFlow:
    def test_every_row_of_the_table_is_accounted_for(self, cohort: Cohort, table: Path) -> None:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        read, where, other = cohort.flow
        assert read["left"] == {"rows": 24, "subjects": 24}
        assert (where["code"], where["column"], where["values"], where["rows"]) == ("where", "view", ["PA"], 3)
        assert (other["code"], other["values"]) == ("other_classes", ["pneumonia"])
        assert other["rows"] == int(((rows["label"] == "pneumonia") & (rows["view"] == "PA")).sum())
        assert other["left"]["rows"] == len(cohort.images)
        assert sum(step["rows"] for step in cohort.flow) == 24 - len(cohort.images)

    def test_a_subject_is_lost_only_with_its_last_row(self) -> None:
        flow = Flow(pd.Series(list("AAB")))
        flow.leave_out("where", pd.Series([True, False, True]))
        assert flow.steps[-1]["subjects"] == 0
        flow.leave_out("where_not", pd.Series([False, True, True]))
        assert (flow.steps[-1]["rows"], flow.steps[-1]["subjects"]) == (1, 1)

    def test_a_step_without_effect_is_no_step(self) -> None:
        flow = Flow(pd.Series(list("AB")))
        flow.leave_out("where", pd.Series([True, True]))
        assert len(flow.steps) == 1

    def test_lost_cases_are_a_step(self) -> None:
        cases = pd.DataFrame({"case": ["A/1", "A/2", "B/1"], "subject": ["A", "A", "B"]})
        assert cases_step("images", cases, cases) == []
        (step,) = cases_step("images", cases, cases.iloc[:1])
        assert step == {"code": "images", "cases": 2, "subjects": 1, "left": {"cases": 1, "subjects": 1}}


class TestCharacteristics:
    def test_numbers_are_those_of_pandas(self, cohort: Cohort, table: Path) -> None:
        study, images = chest_study(table, **settings()), cohort.images
        columns = described_columns(study, images)
        assert {"sex", "age", "source"} <= set(columns)
        every = {"0": pd.Series(True, index=images.index)}
        by_name = {item["name"]: item for item in characteristics(study, images, columns, every)}
        ages, age = pd.to_numeric(images["age"], errors="coerce"), by_name["age"]["sides"]["0"]
        assert age["missing"] == int(ages.isna().sum()) == 3
        assert (age["mean"], age["sd"]) == (pytest.approx(ages.mean()), pytest.approx(ages.std()))
        assert age["median"] == pytest.approx(ages.median())
        sex = by_name["sex"]
        assert [level["name"] for level in sex["levels"]] == ["F", "M"]
        assert sex["sides"]["0"]["counts"] == [int((images["sex"] == s).sum()) for s in "FM"]
        assert by_name["label"]["sides"]["0"]["missing"] == 1

    def test_subjects_count_once_and_varying_values_by_case(self, table: Path) -> None:
        study = chest_study(table, **settings(subgroups=["ward"]))
        images = pd.DataFrame(
            {"subject": list("AAB"), "case": ["A/1", "A/2", "B/1"], "path": list("xyz"), "region": ""}
        ).assign(label=[0.0, 1.0, 0.0], sex=["F", "F", "M"], ward=["1", "2", "1"])
        columns = described_columns(study, images)
        ward, sex, _ = characteristics(study, images, columns, {"0": pd.Series([True] * 3)})
        assert (ward["unit"], ward["sides"]["0"]["counts"]) == ("case", [2, 1])
        assert (sex["unit"], sex["sides"]["0"]["counts"]) == ("subject", [1, 1])
