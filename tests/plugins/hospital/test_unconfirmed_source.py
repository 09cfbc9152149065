"""Confidence is withheld in every output of a batch from another source, until somebody confirms the source."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.errors import CasewiseError
from casewise.inference.drift import Drift, confirmation
from casewise.inference.flag_reasons import UNCONFIRMED, reasons_of
from casewise.inference.model import load_bundle
from casewise.plugins.hospital.case_results import UNCONFIRMED_SOURCE, ModelFacts, Value, nameless, results_of
from casewise.plugins.hospital.summary_page import Box, Text, page
from casewise.run import Run
from tests.film_files import film_bytes
from tests.test_cli import casewise

pytest.importorskip("fhir.resources", reason="the extra `hospital` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")

CONFIDENCE = ("prediction low", "prediction high", "prediction set", "spread")
LOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "own": lambda film: film,
    "less contrast": lambda film: film // 3 + 80,
    "inverted": lambda film: 255 - film,
    "resolution": lambda film: np.asarray(Image.fromarray(film).resize((24, 24)).resize((200, 200))),
}


def batch(run: Run, folder: Path, look: str, ending: str = "png") -> Path:
    """The table of films of 24 subjects of the study in a look."""
    folder.mkdir()
    cohort = run.files.cohort.read().drop_duplicates("subject")[:24]
    for number, path in enumerate(cohort["path"]):
        pixels = np.ascontiguousarray(LOOKS[look](np.asarray(Image.open(path).convert("L"))))
        if ending == "dcm":
            uids = {f"{name}InstanceUID": f"1.2.{number + 1}.{level}" for level, name in enumerate(("Study", "Series"))}
            uids |= {"SOPInstanceUID": f"1.2.{number + 1}.9", "PatientID": f"P{number}", "PatientName": f"P{number}"}
            (folder / f"{number}.dcm").write_bytes(film_bytes(pixels, StudyDate="20200131", **uids))
        else:
            Image.fromarray(pixels).save(folder / f"{number}.png")
    rows = {"path": [f"{n}.{ending}" for n in range(24)], "subject": [f"P{n}" for n in range(24)]}
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


@pytest.mark.parametrize(("look", "ending"), [*((look, "png") for look in LOOKS), ("own", "dcm")])
def test_only_another_source_loses_its_confidence(tmp_path: Path, baseline_run: Run, look: str, ending: str) -> None:
    table = batch(baseline_run, tmp_path / "films", look, ending)
    rows = load_bundle(baseline_run.folder / "bundle").predict(table)
    shares = rows[[name for name in rows if name.startswith("probability")]]
    other = look != "own"
    assert rows["prediction"].notna().all()
    assert (shares.isna() if other else shares.notna()).all(axis=None)
    assert [UNCONFIRMED in reasons_of(text) for text in rows["flags"]] == [other] * len(rows)
    if other:
        assert (rows[list(CONFIDENCE)].isna() | (rows[list(CONFIDENCE)] == "")).all(axis=None)


@pytest.mark.parametrize("confirmed", [False, True])
def test_every_format_withholds_until_the_source_is_confirmed(
    tmp_path: Path, baseline_run: Run, confirmed: bool
) -> None:
    from highdicom.sr import srread

    table, output = batch(baseline_run, tmp_path / "films", "less contrast", "dcm"), tmp_path / "new.csv"
    words = ["predict", str(baseline_run.folder / "bundle"), str(table), "--output", str(output)]
    words += ["--also", f"sr={tmp_path / 'sr'}", "--also", f"fhir={tmp_path / 'fhir'}"]
    words += ["--source-confirmed", "A. Meyer, 24 films compared with the reading"] if confirmed else []
    done = casewise(*words)
    assert done.returncode == 0, done.stderr
    record = json.loads(Path(f"{output}.json").read_text())["drift"]
    assert record["text"]
    assert record["confirmed"].get("by", "") == ("A. Meyer" if confirmed else "")
    assert bool(record["confirmed"].get("at")) == confirmed
    written = pd.read_csv(output)
    assert written["interval note"].str.contains("A. Meyer", regex=False).all() == confirmed
    assert written.filter(like="probability").notna().all(axis=None) == confirmed
    for path in (tmp_path / "sr").iterdir():
        report = srread(path)
        (group,) = report.content.get_image_measurement_groups()
        names = [each.name.meaning for each in (*group.get_measurements(), *group.get_qualitative_evaluations())]
        assert any(name.startswith("Probability of") for name in names) == confirmed
        assert group.tracking_identifier.endswith("not confirmed for this source") == (not confirmed)
        comments = [str(item.get("TextValue", "")) for item in report.ContentSequence]
        assert any(UNCONFIRMED in text for text in comments) == (not confirmed)
        assert any("A. Meyer" in text for text in comments) == confirmed
    bundles = [json.loads(path.read_bytes()) for path in (tmp_path / "fhir").iterdir()]
    made = [e["resource"] for b in bundles for e in b["entry"] if e["resource"]["resourceType"] == "Observation"]
    assert len(made) == len(written) == 24
    assert ["urn:casewise:probability" in json.dumps(each) for each in made] == [confirmed] * 24
    assert [UNCONFIRMED in json.dumps(each["note"]) for each in made] == [not confirmed] * 24


@pytest.mark.parametrize("look", ["inverted", "less contrast"])
def test_the_summary_page_has_no_probability_of_another_source(tmp_path: Path, baseline_run: Run, look: str) -> None:
    model, table = load_bundle(baseline_run.folder / "bundle"), batch(baseline_run, tmp_path / "films", look, "dcm")
    facts = ModelFacts.of(model)

    def pages(**options: str) -> list[tuple[list[str], int]]:
        """Of each case the texts of its page, and the number of its filled boxes, such as bars."""
        chunks = model.predict_in_chunks(table, **options)
        blocks = [page(result, facts) for chunk in chunks for result in results_of(chunk, facts)]
        return [
            (
                [item.text for item in block.items if isinstance(item, Text)],
                sum(isinstance(i, Box) for i in block.items),
            )
            for block in blocks
        ]

    withheld, confirmed = pages(), pages(source_confirmed="A. Meyer, 24 films compared")
    assert len(withheld) == len(confirmed) == 24
    for (texts, boxes), (own_texts, own_boxes) in zip(withheld, confirmed, strict=True):
        shares = [text for text in own_texts if re.fullmatch(r"[<>]?[0-9.]+%", text)]
        assert len(shares) == 3
        assert own_boxes == boxes + 2 * len(shares)  # a bar for each class, on its ground
        assert not any(re.fullmatch(r"[<>]?[0-9.]+%", text) or "prediction set" in text for text in texts)
        largest = " ".join(texts)
        assert "source not confirmed" in largest
        assert UNCONFIRMED_SOURCE in largest
        assert "source not confirmed" not in " ".join(own_texts)


def test_withheld_cases_have_no_prediction_with_abstaining(tmp_path: Path, baseline_run: Run) -> None:
    table = batch(baseline_run, tmp_path / "films", "inverted")
    rows = load_bundle(baseline_run.folder / "bundle").predict(table, abstain=True)
    assert rows["prediction"].isna().all()
    assert (rows["problem"] != "").all()


@pytest.mark.parametrize("text", ["A. Meyer", ", reason", "A. Meyer, ", " , "])
def test_a_confirmation_has_a_name_and_a_reason(text: str) -> None:
    with pytest.raises(CasewiseError, match="--source-confirmed"):
        confirmation(text)
    assert confirmation("") == {}
    entry = confirmation("A. Meyer, films, and their reading")
    assert (entry["by"], entry["reason"]) == ("A. Meyer", "films, and their reading")
    one = {"difference": 0.5, "p_adjusted": 0.01}
    cases = [({}, {}, False), ({"size": one}, {}, True), ({"size": one}, entry, False), ({"bytes": one}, {}, False)]
    assert [Drift(differences=differences, confirmed=stated).withholds for differences, stated, _ in cases] == [
        withheld for *_, withheld in cases
    ]


def test_the_reason_is_kept_without_names(baseline_run: Run) -> None:
    facts = ModelFacts.of(load_bundle(baseline_run.folder / "bundle"))
    value = nameless(Value("net", "label", prediction="covid", flags=f"{UNCONFIRMED}; P7.png: upside down"), facts)
    assert value.unconfirmed
    assert reasons_of(value.flags)[0] == UNCONFIRMED
