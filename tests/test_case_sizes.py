"""Folders of several people: recognised by their names and numbers of images, and predicted as the user states."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.cohort.folder_layout import read_new_layout, stated_pattern
from casewise.errors import CasewiseError
from casewise.inference.case_sizes import CaseSizes, check_people
from casewise.inference.flag_reasons import possible_reasons
from casewise.inference.model import TrainedModel, load_bundle
from casewise.run import Run
from casewise.study.schema import Study


@pytest.fixture(scope="module")
def films(chests: Path) -> list[Path]:
    return [chests.parent / path for path in pd.read_csv(chests)["path"][:6]]


def folder_of(folder: Path, films: list[Path], names: list[str]) -> Path:
    for film, name in zip(films, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, folder / name)
    return folder


def model_of(run: Run, sizes: CaseSizes | None) -> TrainedModel:
    """The model as one that predicts the images of a case together, with this record."""
    model = load_bundle(run.folder)
    assert model.limits
    panels = {**model.members[0].settings["panels"], "by": "case"}
    members = tuple(replace(each, settings={**each.settings, "panels": panels}) for each in model.members)
    return replace(model, members=members, limits=replace(model.limits, sizes=sizes))


def test_the_record_of_a_run(chest_run: Run, chests: Path) -> None:
    limits = load_bundle(chest_run.folder).limits
    assert limits
    assert limits.sizes == CaseSizes(1, 1)
    images = pd.DataFrame({"case": list("aaabbc"), "path": list("123456"), "region": list("uulull"), "sequence": ""})
    films: Any = SimpleNamespace(fusions=[])
    assert CaseSizes.of(images, films) == CaseSizes(2, 1)
    assert CaseSizes.of(images.drop(columns="region"), films) == CaseSizes(3, 2)
    assert CaseSizes.of(images.assign(region=None), films) == CaseSizes(3, 2)
    assert CaseSizes.of(images.iloc[:0], films) is None
    numbered = images.assign(sequence=list("121212"))
    assert CaseSizes.of(numbered, films) == CaseSizes(2, 1), "a column of photographs that is called sequence"
    assert CaseSizes.of(numbered, SimpleNamespace(fusions=["features"])) == CaseSizes(1, 1)  # type: ignore[arg-type]


ONE, SEVERAL = CaseSizes(1, 1), CaseSizes(4, 2)
# sizes of the training, names of files, the start of the refused cases
REFUSED: list[tuple[CaseSizes | None, list[str], str]] = [
    (ONE, [f"cohen/{i}.png" for i in range(6)], "6 images of cohen "),
    (ONE, [f"{site}/{i}.png" for site in ("cohen", "bimcv") for i in range(3)], "3 images of bimcv, 3 images of cohen"),
    (ONE, [f"anna/{i}.png" for i in range(2)], "2 images of anna "),
    (ONE, [*(f"cohen/{i}.png" for i in range(2)), "ben/1.png", "eva/1.png"], "2 images of cohen "),
    (CaseSizes(3, 1), [f"cohen/{i}.png" for i in range(2)], "2 images of cohen "),
    (SEVERAL, [f"cohen/{i}.png" for i in range(5)], "5 images of cohen "),
    (CaseSizes(2, 2), [*(f"cohen/{i}.png" for i in range(5)), "ben/1.png"], "5 images of cohen "),
    *(
        (SEVERAL, [f"{name}/{i}.png" for i in range(2)], f"2 images of {name} ")
        for name in ("batch_01", "films", "DICOM")
    ),
    *(
        (None, [f"{name}/{i}.png" for i in range(2)], f"2 images of {name} ")
        for name in ("Site 3", "31.01.2024", "2023")
    ),
    (SEVERAL, [f"DICOM/{person}/1.png" for person in ("anna", "ben")], "2 images of DICOM "),
    (ONE, [f"images/cohen/{i}.png" for i in range(2)], "2 images of cohen "),
    (ONE, [f"cohen/may/{i}.png" for i in range(2)], "2 images of cohen"),
]


@pytest.mark.parametrize(("sizes", "names", "text"), REFUSED)
def test_folders_of_several_people_are_refused_until_the_user_says_what_they_are(
    chest_run: Run, films: list[Path], tmp_path: Path, sizes: CaseSizes | None, names: list[str], text: str
) -> None:
    model, folder = model_of(chest_run, sizes), folder_of(tmp_path / "new", films, names)
    with pytest.raises(CasewiseError) as refused:
        model.predict(folder)
    message = str(refused.value)
    assert message.startswith(f"cases: {text}")
    # both remedies work as they are stated
    pattern = message.partition("--pattern '")[2].partition("'")[0]
    assert set(model.predict(folder, pattern=pattern)["subject"]) == {
        n.removeprefix("images/").split("/")[0] for n in names
    }
    files = Path(shlex.split(message.partition("give the files: ")[2].partition(". ")[0])[0])
    own = sorted(files.parent.glob(files.name))
    assert len(own) == sum(Path(name).parent == Path(files.parent).relative_to(folder) for name in names)
    assert model.predict(own)["case"].nunique() == len(own)


PREDICTED: list[tuple[CaseSizes | None, list[str], bool]] = [
    (ONE, ["anna/1.png", "ben/1.png"], False),
    (SEVERAL, [f"{name}/{i}.png" for name in ("anna", "ben") for i in range(3)], False),
    (SEVERAL, ["anna/1.png", "anna/2.png"], True),
    (None, [f"{name}/{i}.png" for name in ("anna", "ben") for i in range(2)], True),
    (ONE, [f"{i}.png" for i in range(4)], False),
    (ONE, ["batch_01/1.png"], False),
]


@pytest.mark.parametrize(("sizes", "names", "warned"), PREDICTED)
def test_folders_of_people_are_predicted(
    chest_run: Run,
    films: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sizes: CaseSizes | None,
    names: list[str],
    warned: bool,
) -> None:
    folder = folder_of(tmp_path / "new", films, names)
    table = model_of(chest_run, sizes).predict(folder)
    flat = not any("/" in name for name in names)
    assert set(table["subject"]) == ({*names} if flat else {name.split("/")[0] for name in names})
    assert ("as of one person" in caplog.text) == warned


def test_folders_of_several_people_are_warned_of_where_images_are_predicted_alone(
    chest_run: Run, films: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{site}/{i}.png" for site in ("Nord", "Sued") for i in range(3)]
    load_bundle(chest_run.folder).predict(folder_of(tmp_path / "new", films, names))
    assert "3 images of Nord, 3 images of Sued" in caplog.text
    assert "--pattern" in caplog.text


def test_cases_of_a_table_with_more_images_than_those_of_the_training_are_flagged(
    chest_run: Run, films: list[Path]
) -> None:
    model, rows = model_of(chest_run, ONE), pd.DataFrame({"path": list(map(str, films)), "subject": list("aaabcd")})
    assert model.limits
    assert ONE.reason in possible_reasons(model.limits)

    def flagged(model: TrainedModel, cases: Any) -> list[bool]:
        return ["more images" in text for text in model.predict(cases)["flags"]]

    assert flagged(model, rows) == [True, False, False, False]
    assert flagged(model_of(chest_run, CaseSizes(2, 2)), rows) == [False] * 4
    assert flagged(model_of(chest_run, None), rows) == [False] * 4
    assert flagged(model, [list(films[:2]), [films[2]]]) == [True, False]
    assert flagged(model, [np.full((64, 64), 90, np.uint8)]) == [False]


# names of files, and the pattern that the refusal offers for them
OFFERED = [
    ([f"Klinik/P-050{person}/2021-04-1{day}/{n}.png" for person in (1, 2) for day in (0, 1) for n in (1, 2)],
     "*/{subject}/{visit}/{file}"),
    ([f"Neu 2022/Nord/P-050{person}/week{week}/{n}.png" for person in (1, 2) for week in (0, 4) for n in (1, 2)],
     "*/*/{subject}/{visit}/{file}"),
    ([f"Klinik Nord/P-050{person}/{n}.png" for person in (1, 2) for n in (1, 2)], "*/{subject}/{file}"),
    ([f"P-050{person}/10.04.2021/{n}.png" for person in (1, 2) for n in (1, 2)], "{subject}/{visit}/{file}"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "pattern"), OFFERED)
def test_the_pattern_takes_people_as_subjects(names: list[str], pattern: str, tmp_path: Path) -> None:
    study = Study.model_validate({"name": "a", "cohort": "a.csv", "targets": {"y": {"range": "0..1"}}})
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    parts = [Path(name).parts for name in names]
    table = pd.DataFrame({"path": [str(tmp_path / n) for n in names], "subject": [p[0] for p in parts]})
    table = table.assign(visit=[p[1] if len(p) > 2 else "" for p in parts])
    with pytest.raises(CasewiseError) as refused:
        check_people(table, study, [tmp_path], CaseSizes(1, 1), slot="", together=True)
    assert f"--pattern '{pattern}'" in str(refused.value)
    layout = read_new_layout(tmp_path, regions=[], pattern=stated_pattern(pattern, of_cases=True))
    assert {image.subject for image in layout.images} == {"P-0501", "P-0502"}
