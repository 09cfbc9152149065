"""A value whose images are unlike the training, or of an unknown source, has a caution beside it in every output."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.inference.flag_reasons import UNCONFIRMED
from casewise.inference.output_table import OutputTable
from casewise.plugins.hospital.case_results import Value
from casewise.plugins.hospital.formats import FORMATS
from casewise.plugins.hospital.summary_page import Text, page
from casewise.plugins.serve.results import flags_of, trajectory
from tests.plugins.hospital.test_hospital import FACTS, film, result
from tests.prediction_rows import prediction_rows

UNLIKE, OTHER_SOURCE = "unlike the training cases", "not confirmed for this source"
FLAGS: list[tuple[dict[str, Any], str]] = [
    ({"flags": "upside down"}, UNLIKE),
    ({"distance": 1.5}, UNLIKE),
    ({"flags": f"{UNCONFIRMED}; upside down"}, OTHER_SOURCE),
    ({"distance": 0.9}, ""),
]


@pytest.mark.parametrize(("about", "caution"), FLAGS)
def test_in_reports_and_resources(tmp_path: Path, about: dict[str, Any], caution: str) -> None:
    from highdicom.sr import srread

    values = (
        Value("net", "redness", "upper", prediction=1.5, **about),
        Value("net", "redness", "lower", prediction=2.0, **about),
        Value("net", "total", prediction=5.5, **about),
        Value("net", "grade", prediction="2", **about),
    )
    case = result(film(tmp_path / "x.dcm"), values=values)
    assert {value.caution for value in values} == {caution}

    for name in ("fhir", "fhir-r4"):
        ((_, content),) = FORMATS[name].files(case, FACTS)
        entries = [entry["resource"] for entry in json.loads(content)["entry"]]
        observed = [each for each in entries if each["resourceType"] == "Observation"]
        parts = [part for each in observed for part in (each, *each.get("component", ()))]
        assert len(parts) == 4
        texts = [[text["text"] for text in part.get("interpretation", ())] for part in parts]
        assert texts == [[caution] if caution else []] * 4

    ((_, content),) = FORMATS["sr"].files(case, FACTS)
    groups = srread(io.BytesIO(content)).content.get_image_measurement_groups()
    assert len(groups) == 3
    for group in groups:
        named = {each.name.meaning: each.value.meaning for each in group.get_qualitative_evaluations()}
        assert named.get("Limit of these results", "") == caution

    texts = " ".join(item.text for item in page(case, FACTS).items if isinstance(item, Text))
    shown = {UNLIKE: 2, OTHER_SOURCE: 0, "": 0}[caution]  # beside the score and the grade
    assert texts.count(UNLIKE) >= shown
    assert texts.count("source not confirmed") == (2 if caution == OTHER_SOURCE else 0)
    assert (UNLIKE in texts) == bool(caution)


@pytest.mark.parametrize(("about", "caution"), FLAGS)
def test_in_tables_and_the_course_over_visits(about: dict[str, Any], caution: str) -> None:
    rows = prediction_rows(["A", "B"], [1.0, 1.0], np.array([2.0, 3.0]))
    columns = {"low": 1.0, "high": 4.0, "set": "", "spread": 0.5, "distance": 0.1, "flags": ""} | about
    table = OutputTable({"outcome": ()}, []).of_rows(rows.assign(**columns))
    assert (((table["flags"] != "") | table["beyond"]).tolist()) == [bool(caution)] * 2

    visits: list[dict[str, Any]] = []
    for day, row in enumerate(table.to_dict("records")):
        facts = {"target": "outcome", "prediction": row["prediction"], "prediction_low": 1.0, "prediction_high": 4.0}
        facts |= {"distance": row["distance"], "beyond": bool(row["beyond"]), "problem": ""}
        results = [facts | {"flags": row["flags"].split("; ") if row["flags"] else []}]
        visits.append({"visit": f"visit {day}", "day": float(day), "results": results, "flags": flags_of(results)})
    visits[1]["flags"] = []
    course = trajectory(visits, {"primary_outcome": "outcome", "response": None, "titles": {}})
    assert course is not None
    assert [visit["flagged"] for visit in course["visits"]] == [bool(caution), False]
    later_first = [visit | {"day": -visit["day"]} for visit in visits]
    course = trajectory(later_first, {"primary_outcome": "outcome", "response": None, "titles": {}})
    assert course is not None
    assert [visit["flagged"] for visit in course["visits"]] == [False, bool(caution)]
