"""Names compared by meaning: Unicode forms, invisible characters, capitals and spaces at the ends."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.folder_layout import Pattern, read_new_layout
from casewise.errors import CasewiseError, CohortError
from casewise.inference.new_cases import NewTable
from casewise.names import FileNames
from casewise.plugins.init.own_data import plan_study
from casewise.study.loading import read_study


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def study_text(**lines: str) -> str:
    stated = {"name": "s", "cohort": "t.csv", "root": "img", "targets": "{label: {classes: [a, b]}}", **lines}
    return "".join(f"{key}: {value}\n" for key, value in stated.items())


def cohort(folder: Path, rows: list[str], heading: str = "path,subject,label", **lines: str) -> Cohort:
    (folder / "t.csv").write_text("\n".join([heading, *rows]) + "\n", encoding="utf-8")
    (folder / "study.yaml").write_text(study_text(**lines), encoding="utf-8")
    return read_cohort(read_study(folder / "study.yaml"), to_learn=False)


# what the table writes, and the name on the disk
PAIRS = [
    (composed("Müller {}.png"), decomposed("Müller {}.png")),
    (decomposed("Müller {}.png"), composed("Müller {}.png")),
    (composed("é/{}.png"), decomposed("é/{}.png")),
    ("IMG_{}.PNG", "img_{}.png"),
    ("a\u00a0b {}.png", "a b {}.png"),
    ("\u200ba{}.png", "a{}.png"),
    ("a{}.png", "a\ufeff{}.png"),
    ("a{}.png\u00a0", "a{}.png"),
    (composed("Ångström가{}.png"), decomposed("Ångström가{}.png")),
]


@pytest.mark.parametrize(("written", "stored"), PAIRS)
def test_a_table_names_files_in_any_form(tmp_path: Path, written: str, stored: str) -> None:
    files = [image(tmp_path / "img" / stored.format(i), i) for i in range(4)]
    rows = [f'"{written.format(i)}",S{i},{"ab"[i % 2]}' for i in range(4)]
    assert sorted(cohort(tmp_path, rows).images["path"]) == sorted(map(str, files))
    new = plan_study(table=tmp_path / "t.csv", images=tmp_path / "img", folder=tmp_path / "new")
    assert new.understood[0].startswith("4 images of 4 subjects")
    assert not any("will refuse" in doubt for doubt in new.doubts)
    study = read_study(tmp_path / "study.yaml")
    cells = NewTable(study, own=True).cells()
    assert sorted(str(tmp_path / "img" / text) for text in cells["path"]) == sorted(map(str, files))


def test_two_files_of_one_name_are_refused_with_codes(tmp_path: Path) -> None:
    for number, form in enumerate((composed, decomposed)):
        image(tmp_path / "img" / form("ü.png"), number)
    image(tmp_path / "img" / "b.png", 2)
    with pytest.raises(CohortError, match=r"u\\u0308\.png.*\\xfc\.png"):
        cohort(tmp_path, [f"{composed('ü.png')},S1,a", "b.png,S2,b"])
    with pytest.raises(CasewiseError, match=r"u\\u0308\.png"):
        read_new_layout(tmp_path / "img", regions=[])
    with pytest.raises(CasewiseError, match=r"u\\u0308\.png"):
        plan_study(table=tmp_path / "t.csv", images=tmp_path / "img", folder=tmp_path / "new")


def test_of_names_in_capitals_the_written_one_counts(tmp_path: Path) -> None:
    small, large = image(tmp_path / "img" / "a.png", 0), image(tmp_path / "img" / "A.png", 1)
    if len(list((tmp_path / "img").iterdir())) < 2:
        pytest.skip("the disk does not tell capitals apart")
    assert list(cohort(tmp_path, ["a.png,S1,a", "A.png,S2,b"]).images["path"]) == [str(small), str(large)]
    assert len(FileNames().find(str(tmp_path / "IMG" / "a.png"))) == 1


def test_subjects_conditions_and_classes_in_two_forms_are_one(tmp_path: Path) -> None:
    for i in range(4):
        image(tmp_path / "img" / f"{i}.png", i)
    name, kind = "Zoë", "é"
    rows = [f"0.png,{composed(name)},{composed(kind)},x", f"1.png,{decomposed(name)},{decomposed(kind)},x"]
    rows += [f"2.png,Zo\u200b{decomposed('ë')},b,x", f"3.png,Eva,b,{decomposed('ü')}"]
    read = cohort(
        tmp_path,
        rows,
        heading=f"path,subject,{decomposed('größe')},kind",
        targets=f"{{label: {{classes: [{decomposed(kind)}, b], column: {composed('größe')}}}}}",
        where_not=f"{{kind: [{composed('ü')}]}}",
        panels="{by: image}",
    )
    assert set(read.images["subject"]) == {name}
    assert read.images["label"].tolist() == [0, 0, 1]


def test_masks_are_named_in_any_form(tmp_path: Path) -> None:
    files = [image(tmp_path / "img" / f"{i}.png", i) for i in range(2)]
    masks = [image(tmp_path / "img" / decomposed(f"ü{i}.png"), i) for i in range(2)]
    rows = [f"{files[i].name},S{i},{'ab'[i]},{composed(masks[i].name)}" for i in range(2)]
    read = cohort(tmp_path, rows, heading="path,subject,label,mask", audit="{mask: mask}")
    assert [tmp_path / "img" / cell for cell in read.images["mask"]] == masks


def test_a_folder_and_a_pattern_state_names_in_one_form(tmp_path: Path) -> None:
    for form, number in ((composed, 1), (decomposed, 2)):
        image(tmp_path / form("Jürgen") / f"{number}.png", number)
    image(tmp_path / "Eva" / "1.png", 3)
    layout = read_new_layout(tmp_path, regions=[])
    assert [found.subject for found in layout.images] == ["Eva", "Jürgen", "Jürgen"]
    pattern = Pattern(composed("Größe_{subject}.png"))
    assert pattern.read(decomposed("Größe_Zoë.png")) == {"subject": composed("Zoë")}


def test_a_root_is_named_in_any_form(tmp_path: Path) -> None:
    image(tmp_path / decomposed("Bücher") / "0.png"), image(tmp_path / decomposed("Bücher") / "1.png", 1)
    read = cohort(tmp_path, ["0.png,S0,a", "1.png,S1,b"], root=composed("Bücher"))
    assert all(Path(path).is_file() for path in read.images["path"])


def test_letters_of_another_alphabet_are_written_as_codes(tmp_path: Path) -> None:
    image(tmp_path / "img" / "0.png"), image(tmp_path / "img" / "1.png", 1)
    with pytest.raises(CohortError, match=r"\\u0421"):
        cohort(tmp_path, ["0.png,C1,a", "1.png,\u04211,b"])
