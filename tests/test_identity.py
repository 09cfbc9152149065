"""Spellings of subjects: nobody stands in training and test data under two names without being seen."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.audit.subjects import name_findings, suffix_findings
from casewise.cohort.checks import check_alike
from casewise.cohort.cohort import read_cohort
from casewise.cohort.identity import REFUSE, doubtful_pairs, groups_of_one, pseudonym, same_people, same_subjects
from casewise.cohort.table import Problems
from casewise.console import Silent
from casewise.errors import CohortError, SplitError
from casewise.pipeline.read import read
from casewise.run_folder import JobFolder
from casewise.study.loading import read_study
from casewise.study.schema import Study
from tests.chest_study import THREE, chest_study
from tests.conftest import SHARED, absolute

FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
CYRILLIC = str.maketrans("ABCEHKMOPTXSacepx", "АВСЕНКМОРТХЅасерх")
GREEK = str.maketrans("ABEHIKMNOPTX", "ΑΒΕΗΙΚΜΝΟΡΤΧ")


def before_digits(mark: str) -> Callable[[str], str]:
    return lambda name: name[0] + mark + name[1:]


def replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def spell(name: str) -> str:
        for old, new in pairs:
            name = name.replace(old, new)
        return name

    return spell


# Each turns a name of a letter, a number, a dash and a number (`C10-7`) into another spelling.
NAMES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    **{
        f"{mark!a} after the letter": before_digits(mark)
        for mark in ("0", "000", *"-_ ./#:", *"\u00ad\u00a0\u2009\u200b\u200d\x00", "\u0301")
    },
    **{
        f"{mark!a} for the dash": replaced(("-", mark))
        for mark in ("-0", *"_ ./", *"\u2013\u2014\u2212\u2011", "--", " - ")
    },
    **{f"{mark!a} before": lambda name, mark=mark: mark + name for mark in " \ufeff"},  # type: ignore[misc]
    **{f"{mark!a} after": lambda name, mark=mark: name + mark for mark in " \t\u200e\x07\x7f\ufe0f.;"},  # type: ignore[misc]
    "full width": lambda name: name.translate(FULL_WIDTH),
    "Cyrillic": lambda name: name.translate(CYRILLIC),
    "Greek": lambda name: name.translate(GREEK),
    "O for 0": replaced(("0", "O")),
    "l for 1": replaced(("1", "l")),
    "I for 1": replaced(("1", "I")),
    "Arabic digits": lambda name: "".join(chr(0x660 + int(c)) if c.isdecimal() else c for c in name),
    "quotes": lambda name: f"'{name}'",
    "brackets": lambda name: f"({name})",
}
# Each turns a whole number (`17`) into another spelling.
NUMBERS: dict[str, Callable[[str], str]] = {
    "leading zero": lambda name: "0" + name,
    "zeros to four places": lambda name: name.zfill(4),
    "decimal place": lambda name: name + ".0",
    "two decimal places": lambda name: name + ".00",
    "decimal comma": lambda name: name + ",0",
    "decimal point": lambda name: name + ".",
    "plus": lambda name: "+" + name,
    "exponent": lambda name: (
        f"{int(name) // 10 ** (len(name) - len(name.rstrip('0')))}e{len(name) - len(name.rstrip('0'))}"
    ),
    "hash": lambda name: "#" + name,
    "superscript": lambda name: "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(c)] for c in name),
}


def random_names(draw: random.Random) -> tuple[list[str], dict[str, Callable[[str], str]]]:
    count = draw.randrange(4, 12)
    if draw.random() < 0.3:
        return [str(number) for number in draw.sample(range(1, 2000), count)], NUMBERS
    prefix = draw.choice([*"ABCDEFGHJKMNPQRSTUVWXYZ", *"ABCEHKMPTX", *"ABCEHKMPTX"])
    pairs = draw.sample(range(400), count)
    return [f"{prefix}{n // 20 + 1}-{n % 20 + 1}" for n in pairs], NAMES


def test_no_spelling_puts_a_person_on_both_sides_unseen() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        draw = random.Random(seed)
        names, spellings = random_names(draw)
        kind = list(spellings)[seed % len(spellings)]
        name = next((name for name in names if spellings[kind](name) != name), "")
        other = spellings[kind](name)
        if not name or seen[kind] == 3:
            continue
        problems = Problems()
        check_alike(pd.Series(names), "subject", problems, people="refuse_similar")
        assert not problems.by_kind, (names, problems.by_kind)
        seen[kind] += 1
        check_alike(pd.Series([*names, other]), "subject", problems, people="refuse_similar")
        ((_, message),) = problems.by_kind["subject alike"]
        assert repr(name) in message, kind
        assert repr(other) in message, kind
        assert same_people([other], names) == {other: name}, kind
    assert seen.keys() == NAMES.keys() | NUMBERS.keys()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *[("1-10", "11-0"), ("1.10", "1.1"), ("S10", "S1"), ("A1", "B1"), ("S1a", "S1b"), ("1-1", "11"), ("-", "+")],
        *[("NI-001", "NL-001"), ("CI01", "CL01"), ("Ian", "Lan"), ("123-4567", "12-34567")],
        *[("1,000", "1"), ("2.000", "2"), ("राम", "रमा"), ("か", "が")],
    ],
)
def test_other_names_are_other_people(one: str, two: str) -> None:
    assert same_people([one], [two]) == {}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *[("Control1", "Control 1"), ("Control1", "control01"), ("L1", "L01"), ("L1", "L-1"), ("PASI1", "PASI-1")],
        *[("Vol 7", "vol7"), ("Hospital-3", "hospital3"), ("943 476 5919", "9434765919"), ("12 345", "12345")],
        *[("19900101-1234", "199001011234"), ("1,000", "1000"), ("2020-01-05", "20200105")],
        *[("#43.0", "43"), ("1,0.", "1"), ("(1.0)", "1"), ("S1O", "S10"), ("1l", "11"), ("José 7", "jose-07")],
        ("550e8400-e29b-41d4-a716-446655440000", "550E8400E29B41D4A716446655440000"),
        *[("P001", "p001.JPG"), ("7", "07.nii.gz"), ("Müller", "Mueller"), ("Björn 2", "bjoern2"), ("Weiß", "Weiss")],
        *[("1.000", "1000"), ("12.345", "12,345"), ("P%201", "P 1"), ("A&amp;B", "A&B"), ("Meier, Anna", "Meier Anna")],
    ],
)
def test_spellings_of_one_name_are_one_person(one: str, two: str) -> None:
    assert (same_people([one], [two]), groups_of_one([one, two])) == ({one: two}, [[one, two]])


DOUBTFUL = [
    *[("001", "P001"), ("P001", "Patient 001"), ("001", "UKE-001"), ("ID 7", "P7"), ("7.png", "sub-07")],
    *[("P001", "P001_20200101"), ("P001_2020-01-01", "P001_2021-12-31"), ("P1 01.02.2020", "P1")],
    *[("Meier Anna", "Anna Meier"), ("Meier, Anna", "Anna Meier")],
]
HONEST = [
    *[["A001", "B001"], ["P1", "S1"], ["UKE-001", "HH-001"], ["site1_001", "001"], ["1-10", "10"], ["1.1", "1.10"]],
    *[["AB_19800101", "AB_19750203"], ["Meier Anna", "Meier Hanna"], ["Anna", "Anna Meier"], ["2.000", "2"]],
    [f"UKE-{number}" for number in range(300)],
]


@pytest.mark.parametrize(("one", "two"), DOUBTFUL)
def test_doubtful_names_are_a_warning_and_not_refused(tiny: Path, one: str, two: str) -> None:
    assert groups_of_one([one, two]) == []
    (finding,) = name_findings([one, "X99", two], study := read_study(tiny), {one: 0, two: 1, "X99": 0})
    assert (finding.id, finding.level, finding.figures["names"]) == ("subject-names", "warning", [[one, two]])
    assert (finding.figures["pairs"], finding.figures["across"]) == (1, 1)
    assert doubtful_pairs([one], [two]) == [(one, two)]
    assert name_findings([one, two], study.model_copy(update={"subject_names": [[one, two]]}), {}) == []


def test_names_of_honest_cohorts_pass() -> None:
    packs = [pd.read_csv(table, dtype=str)["subject"].unique().tolist() for table in SHARED.glob("data/*/cases.csv")]
    for names in [*HONEST, *packs]:
        assert groups_of_one(names) == doubtful_pairs(names) == []


def test_visits_and_names_of_files_are_compared_by_case_and_spaces_only(tmp_path: Path) -> None:
    problems = Problems()
    check_alike(pd.Series(["Day -1", "Day 1", "T-1", "T1"]), "visit", problems)
    check_alike(pd.Series(["1.png", "01.png"]), "subject", problems)
    assert not problems.by_kind
    check_alike(pd.Series(["Day 1", "day1"]), "visit", problems)
    assert list(problems.by_kind) == ["visit alike"]


def test_two_spellings_are_refused_unless_stated_to_be_two_people(tiny: Path, tmp_path: Path, phantom: Path) -> None:
    table = absolute(phantom)
    table.loc[table["subject"] == "S02", "subject"] = "s-1"
    table.to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(CohortError, match=r"'S01' .* and 's-1' .*subject_names: as_written"):
        read_cohort(read_study(tiny, cohort=tmp_path / "c.csv"))
    cohort = read_cohort(read_study(tiny, cohort=tmp_path / "c.csv", subject_names="as_written"))
    assert {"S01", "s-1"} <= set(cohort.cases["subject"])
    assert any("as_written" in note for note in cohort.notes)


def test_listed_names_are_different_people_and_others_are_refused(tiny: Path, tmp_path: Path, phantom: Path) -> None:
    table = absolute(phantom)
    table["subject"] = table["subject"].replace({"S02": "s-1", "S04": "S 003"})
    table.to_csv(tmp_path / "c.csv", index=False)
    listed = [["S01", "s-1"]]
    with pytest.raises(CohortError, match=r"'S03' .* and 'S 003'") as refused:
        read_cohort(read_study(tiny, cohort=tmp_path / "c.csv", subject_names=listed))
    assert "'S01'" not in str(refused.value)
    both = [*listed, ["S03", "S 003"]]
    cohort = read_cohort(read_study(tiny, cohort=tmp_path / "c.csv", subject_names=both))
    assert {"S01", "s-1", "S03", "S 003"} <= set(cohort.cases["subject"])
    assert any("S01 and s-1; S03 and S 003" in note for note in cohort.notes)


def test_a_bundle_of_people_with_the_same_names_is_declared(tiny: Path, tmp_path: Path) -> None:
    bundle = JobFolder(tmp_path / "bundle")
    facts = {"format": 1, "backbone": "x", "weights": "random", "weights_sha256": "", "network": {}}
    bundle.facts.write({**facts, "subjects": ["s01"], "earlier_subjects": ["s 02"]})
    bundle.weights.path.write_bytes(b"")
    weights = {"weights": f"bundle:{bundle.path}"}
    with pytest.raises(SplitError, match=r"2 subjects .*bundle_subjects: distinct"):
        read(read_study(tiny, **weights), None, Silent())
    assert len(read(read_study(tiny, **weights, bundle_subjects="distinct"), None, Silent()).cases)
    named = read_study(tiny, **weights, subject_names=[["S01", "s01"], ["S02", "s 02"]])
    assert len(read(named, None, Silent()).cases)


def test_the_table_to_pretrain_on_is_read_before_training(tiny: Path, tmp_path: Path, phantom: Path) -> None:
    table = absolute(phantom)
    table.assign(erythema=9).to_csv(tmp_path / "wrong.csv", index=False)
    settings: dict[str, Any] = {"subjects": "shared", "targets": {"erythema": "0..4"}}

    def stated(name: str, **changes: Any) -> Study:
        return read_study(tiny, pretrain={"cohort": tmp_path / name, **settings, **changes})

    with pytest.raises(CohortError, match=r"outside 0\.\.4"):
        read(stated("wrong.csv"), None, Silent())
    table.assign(subject=table["subject"].str.lower()).to_csv(tmp_path / "lower.csv", index=False)
    with pytest.raises(SplitError, match="may mean the same people: s01"):
        read(stated("lower.csv"), None, Silent())
    table.to_csv(tmp_path / "same.csv", index=False)
    with pytest.raises(SplitError, match="Write `subjects: shared`"):
        read(stated("same.csv", subjects="distinct"), None, Silent())
    assert len(read(stated("same.csv"), None, Silent()).cases)


def test_an_external_subject_may_not_be_one_of_pretraining(chests: Path, tmp_path: Path) -> None:
    table = absolute(chests)
    table.assign(subject="p" + table["subject"]).to_csv(tmp_path / "pretrain.csv", index=False)
    table.assign(subject="P" + table["subject"]).to_csv(tmp_path / "external.csv", index=False)
    pretrain = {"cohort": tmp_path / "pretrain.csv", "subjects": "distinct", "targets": {"label": THREE}}
    external = {"cohort": tmp_path / "external.csv", "subjects": "distinct"}
    with pytest.raises(SplitError, match="pretraining_subjects: distinct"):
        read(chest_study(chests, pretrain=pretrain, external=external), None, Silent())
    external["pretraining_subjects"] = "distinct"
    assert len(read(chest_study(chests, pretrain=pretrain, external=external), None, Silent()).notes) == 1
    table.assign(subject="UKE-" + table["subject"].str.strip("C")).to_csv(tmp_path / "external.csv", index=False)
    external["subjects"] = "named_apart"
    table.assign(subject=table["subject"].str.strip("C")).to_csv(tmp_path / "own.csv", index=False)
    _, note = read(chest_study(tmp_path / "own.csv", external=external), None, Silent()).notes
    assert f"{table['subject'].nunique()} pairs" in note


@pytest.mark.parametrize(
    "endings", ["_v1|_v2", "v1|v2", "L|R", "-od|-os", " (1)| (2)", "_baseline|_followup", "_2019|_2021"]
)
def test_systematic_endings_are_a_finding(endings: str) -> None:
    names = [f"P{number}{ending}" for number in range(8) for ending in endings.split("|")]
    (finding,) = suffix_findings(names)
    assert (finding.id, finding.level, finding.figures["subjects"]) == ("subject-suffixes", "warning", 16)


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:03d}" for number in range(100)],
        [f"S1-{number:02d}" for number in range(40)],
        [f"site{site}_{number}" for site in range(4) for number in range(3)],
        [f"{site:02d}-{number}" for site in range(20) for number in range(1, 5)],
        ["P1L", "P1R", "P2", "P3"],
        [],
    ],
)
def test_numbered_subjects_are_no_finding(names: list[str]) -> None:
    assert suffix_findings(names) == []


MARKED = [
    *("1", "001", "1.0", "01", "2", "P1", "p-01", "P 001", "P10", "PI0", "Pl0", "NI-1", "NL-1", "N1-1"),
    *("123-4567", "12-34567", "1234567", "1,234,567", "С1", "C1", "José", "Jose", "Müller", "Muller", "a", "A "),
]
STATED = [["1", "001"], ["P1", "p-01"]]


@pytest.mark.parametrize("declared", [REFUSE, "as_written", STATED])
def test_hashed_names_match_as_plain_ones(declared: object) -> None:
    for name, other in product(MARKED, MARKED):
        plain = bool(same_people([name], [other], declared))  # type: ignore[arg-type]
        assert bool(same_subjects([name], [pseudonym(other, "salt")], declared)) == plain, (name, other)  # type: ignore[arg-type]


def test_a_pseudonym_contains_no_name_and_depends_on_its_salt() -> None:
    text = pseudonym("Margarete", "abc")
    assert "argaret" not in text
    assert text.split(":")[2] != pseudonym("Margarete", "abd").split(":")[2]
    assert pseudonym(text, "another") == text


def test_plain_and_hashed_subjects_may_be_mixed() -> None:
    subjects = ["P7", pseudonym("P8", "a"), pseudonym("P9", "b")]
    assert same_subjects(["p07", "P8", "p-9", "P10"], subjects) == {"p07": "P7", "P8": "P8", "p-9": "p-9"}
