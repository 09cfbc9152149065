"""Which images of a study are read: rules by modality, body part, view, description, spacing and number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import CasewiseError, ImageError
from casewise.plugins.node.headers import InstanceHeader, UnanswerableError, patient_of, read_header
from casewise.plugins.node.selection import SelectionError, Slots, select
from casewise.plugins.node.settings import SelectRule
from tests.film_files import NUMBER, film_bytes

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

CHEST = SelectRule(modality=["DX", "CR"], body_part=["CHEST"], view=["PA", "AP"])
FILM = InstanceHeader(Path("a.dcm"), "1", "1.1", ("4711", "Doe^Jane", ""), "DX", body_part="CHEST", view="PA")
LATERAL = replace(FILM, path=Path("lat.dcm"), instance="1.2", view="LL", title="Chest lat")
SLICE = InstanceHeader(Path("s"), "2", "2.1", FILM.person, "MR", description="T1 axial", spacing=(0.8, 0.8))


def scan(series: str, count: int, **changes: Any) -> list[InstanceHeader]:
    return [
        replace(SLICE, path=Path(f"{series}-{n}"), series=series, instance=f"{series}.{n}", order=(1, n), **changes)
        for n in range(count)
    ]


def written(path: Path, **tags: Any) -> Path:
    about: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "BodyPartExamined": "CHEST"}
    path.write_bytes(film_bytes(np.zeros((8, 8), np.uint16), **about | tags))
    return path


class TestHeader:
    def test_what_a_film_states(self, tmp_path: Path) -> None:
        tags = {"ManufacturerModelName": "X1", "InstitutionName": "West", "StationName": "R2", "ViewPosition": "pa"}
        header = read_header(written(tmp_path / "a.dcm", ImagerPixelSpacing=[0.1, 0.2], SeriesNumber=3, **tags))
        assert (header.modality, header.body_part, header.view, header.spacing) == ("DX", "CHEST", "PA", (0.1, 0.2))
        assert (header.scanner, header.site, header.order) == ("Acme X1", "West R2", (3, 0))
        assert (header.is_image, header.is_raw, header.frames) == (True, False, 1)
        assert patient_of([header, header]) == NUMBER

    @pytest.mark.parametrize(
        ("code", "description", "expected"),
        [
            ("postero-anterior", "", "PA"),
            ("antero-posterior", "lateral", "AP"),
            ("left lateral", "", "LL"),
            ("frontal", "", "FRONTAL"),
            ("medio-lateral", "", "ML"),
            ("latero-medial", "", "LM"),
            ("", "Thorax PA stehend", "PA"),
            ("", "PA + LAT", ""),
            ("", "papaya", ""),
        ],
    )
    def test_a_view_that_view_position_does_not_state(
        self, tmp_path: Path, code: str, description: str, expected: str
    ) -> None:
        item = pydicom.Dataset()
        item.CodeMeaning = code
        tags = {"ViewPosition": "", "ViewCodeSequence": [item] if code else None, "SeriesDescription": description}
        assert read_header(written(tmp_path / "a.dcm", **tags)).view == expected

    @pytest.mark.parametrize(
        ("tags", "field"),
        [
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "is_image"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "is_image"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is_image"),
            ({"PresentationIntentType": "FOR PROCESSING"}, "is_raw"),
        ],
    )
    def test_what_is_never_chosen(self, tmp_path: Path, tags: dict[str, Any], field: str) -> None:
        header, photograph = (
            read_header(written(tmp_path / "a.dcm", **each))
            for each in (tags, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"})
        )
        assert getattr(header, field) is not getattr(photograph, field)
        assert photograph.is_image

    @pytest.mark.parametrize(
        "tag", ["SeriesDescription", "ProtocolName", "BodyPartExamined", "ViewPosition", "Modality"]
    )
    @pytest.mark.parametrize("text", ["Thorax *03.04.1950", "DOEJANE", "Mueller", "A7712345", "0004711", "4711_pa"])
    def test_texts_of_headers_are_in_the_report_only(self, tmp_path: Path, tag: str, text: str) -> None:
        tags = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "SeriesDescription": "", tag: text}
        header = read_header(written(tmp_path / "a.dcm", **tags))
        rule = CHEST.model_copy(update={"description": "^T1$"})
        two = [header, replace(header, series="2")]
        for headers, rules, slots in (([header], [rule], Slots()), (two, [], Slots(scans=True))):
            with pytest.raises(SelectionError) as refused:
                select(headers, rules, slots)
            assert text not in str(refused.value)

    def test_damaged_files(self, tmp_path: Path) -> None:
        (tmp_path / "text.dcm").write_text("no image")
        with pytest.raises(UnanswerableError):
            read_header(tmp_path / "text.dcm")
        path = written(tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes()[:400])
        with pytest.raises((UnanswerableError, ImageError)):
            read_header(path)
        with pytest.raises(UnanswerableError):
            read_header(written(tmp_path / "b.dcm", SeriesInstanceUID=None))


def test_an_answer_is_about_one_patient() -> None:
    other = replace(FILM, person=("4712", "Doe^Jane", ""))
    for headers in ([FILM, other], [], [replace(FILM, person=("", "", ""))]):
        with pytest.raises(UnanswerableError):
            patient_of(headers)
    with pytest.raises(UnanswerableError):
        patient_of([replace(FILM, issuer="A"), replace(FILM, issuer="B")])
    spelt = replace(FILM, person=("4711", "Doe^Jane^^", ""), issuer="A")
    assert patient_of([FILM, spelt]) == "4711"


class TestFilms:
    def chosen(self, *headers: InstanceHeader, rule: SelectRule = CHEST) -> list[str]:
        return [str(row.files[0]) for row in select(headers, [rule], Slots()).rows]

    def test_views_are_chosen_one_by_one(self) -> None:
        assert self.chosen(LATERAL, FILM) == ["a.dcm"]
        second = replace(FILM, path=Path("b.dcm"), series="9", instance="9.1", modality="CR", view="AP")
        assert self.chosen(second, LATERAL, FILM) == ["a.dcm", "b.dcm"]

    def test_raw_films_are_read_only_where_there_is_nothing_else(self) -> None:
        raw = replace(FILM, path=Path("raw.dcm"), instance="1.0", is_raw=True)
        assert self.chosen(raw, FILM) == ["a.dcm"]
        assert self.chosen(raw) == ["raw.dcm"]

    def test_a_body_part_in_a_description_counts_where_it_is_not_stated(self) -> None:
        assert self.chosen(replace(FILM, body_part="", words="XR Chest 2 views")) == ["a.dcm"]
        for header in (replace(FILM, body_part="HAND", words="Chest"), replace(FILM, body_part="", words="Hand")):
            with pytest.raises(SelectionError):
                self.chosen(header)

    def test_regions(self) -> None:
        slots, rules = (
            Slots(("front", "side")),
            [SelectRule(view=["PA"], slot="front"), SelectRule(view=["LL"], slot="side")],
        )
        rows = select([LATERAL, FILM], rules, slots).rows
        assert [(str(row.files[0]), row.slot) for row in rows] == [("a.dcm", "front"), ("lat.dcm", "side")]
        with pytest.raises(SelectionError, match="side"):
            select([FILM], rules, slots)
        assert len(select([FILM], rules, replace(slots, optional=True)).rows) == 1
        with pytest.raises(SelectionError):
            select([replace(FILM, view="RL")], rules, replace(slots, optional=True))


class TestScans:
    slots = Slots(("T1", "T2"), scans=True)
    rules = (SelectRule(description="T1", slot="T1"), SelectRule(description="T2", spacing=(0.5, 1), slot="T2"))

    def test_a_series_is_one_scan(self) -> None:
        headers = [*scan("3", 4, description="T2 fs")[::-1], *scan("2", 3), *scan("5", 2, is_image=False)]
        selection = select(headers, self.rules, self.slots)
        assert [(row.slot, [str(path) for path in row.files]) for row in selection.rows] == [
            ("T1", ["2-0", "2-1", "2-2"]),
            ("T2", ["3-0", "3-1", "3-2", "3-3"]),
        ]
        assert len(selection.headers) == 7

    def test_several_series_are_refused(self) -> None:
        with pytest.raises(SelectionError, match="2 series fit T1"):
            select([*scan("2", 3), *scan("4", 3), *scan("3", 3, description="T2")], self.rules, self.slots)

    def test_every_slice_must_fit(self) -> None:
        mixed = [*scan("3", 2, description="T2"), replace(scan("3", 3, description="T2")[2], spacing=(2.0, 2.0))]
        with pytest.raises(SelectionError, match="2 mm"):
            select([*scan("2", 3), *mixed], self.rules, self.slots)


def test_rules_are_about_slots_of_the_model() -> None:
    Slots().check([])
    Slots().check([SelectRule()])
    scans = Slots(("T1", "T2"), scans=True)
    scans.check([SelectRule(slot="T2"), SelectRule(slot="T1")])
    for slots, rules in ((Slots(), ["T1"]), (scans, []), (scans, ["T1"]), (scans, ["T1", "T2", "T3"])):
        with pytest.raises(CasewiseError, match="select"):
            slots.check([SelectRule(slot=name) for name in rules])


def test_an_image_has_one_slot() -> None:
    films = [
        replace(FILM, path=Path(f"{side}.dcm"), series=side, instance=side, view="CC", laterality=side) for side in "LR"
    ]
    sides = {"left": "L", "right": "R"}
    slots, rules = Slots(tuple(sides)), [SelectRule(view=["CC"], slot=name) for name in sides]
    with pytest.raises(SelectionError, match="left and right"):
        select(films, rules, slots)
    apart = [rule.model_copy(update={"laterality": [sides[rule.slot]]}) for rule in rules]
    assert [(str(row.files[0]), row.slot) for row in select(films, apart, slots).rows] == [
        ("L.dcm", "left"),
        ("R.dcm", "right"),
    ]
    with pytest.raises(SelectionError, match="laterality"):
        select([replace(film, laterality="") for film in films], apart, slots)


def test_views_and_sides_of_headers(tmp_path: Path) -> None:
    about = {"ViewPosition": "", "StudyDescription": "Chest PA"}
    assert read_header(written(tmp_path / "a.dcm", **about, ImageLaterality=None, Laterality="R")).laterality == "R"
    assert read_header(written(tmp_path / "b.dcm", **about, Laterality="R", ImageLaterality="L")).laterality == "L"
    # what a study is called says nothing about one of its films
    lateral = read_header(written(tmp_path / "c.dcm", **about, SeriesDescription=""))
    assert (lateral.view, lateral.words) == ("", "Chest PA")
    assert read_header(written(tmp_path / "d.dcm", **about, ProtocolName="Thorax ap")).view == "AP"
