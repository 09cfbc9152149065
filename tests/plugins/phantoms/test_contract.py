"""What every phantom keeps: its bytes by seed, its marks, folders of others, and settings that cannot be."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.chest import make_chest
from casewise.plugins.phantoms.cohort import MARK
from casewise.plugins.phantoms.pancreas import make_pancreas
from casewise.plugins.phantoms.psoriasis import make_psoriasis
from casewise.plugins.phantoms.slides import make_regions, make_slide_phantom
from tests.phantom_files import contents, rows_of

pytest.importorskip("nibabel", reason="the package that writes volumes is optional")
PICTURES = (".jpg", ".png", ".tiff", ".gz")


@dataclass(frozen=True)
class Kind:
    """A generator, its smallest settings, and further ones that it refuses, with the words of the message."""

    make: Callable[..., Path]
    settings: dict[str, Any]
    refused: list[tuple[dict[str, Any], str]] = field(default_factory=list)


KINDS = {
    "psoriasis": Kind(
        make_psoriasis,
        {"visits": 1, "size": (60, 40), "processes": 1},
        [({"size": (5000, 100)}, "24 to 4928 pixels a side")],
    ),
    "chest": Kind(
        make_chest,
        {"size": (48, 48)},
        [
            ({"size": (20, 320)}, "48 to 1024 pixels a side; found 20x320"),
            ({"marker": "cornr"}, "Did you mean 'corner'"),
            ({"classes": ("covid", "pneumona")}, "Did you mean 'pneumonia'"),
        ],
    ),
    "skin": Kind(
        make_slide_phantom,
        {"size": (640, 520), "mpp": 2.0},
        [
            ({"classes": ("normal",)}, "two or more; found normal"),
            ({"size": (1000, 800), "mpp": 0.5}, "600 microns a side or more; found 400"),
            ({"stains": "owned"}, "Did you mean 'own'"),
        ],
    ),
    "pancreas": Kind(
        make_pancreas,
        {"size": (48, 48), "slices": (10, 10)},
        [
            ({"classes": ("normal", "hihg")}, "found 'hihg'. Did you mean 'high'"),
            ({"lesion": "plantd"}, "Did you mean 'planted'"),
        ],
    ),
}
COMMON = [
    ({"subjects": 0}, "subjects must be 1 or more; found 0"),
    ({"seed": -1}, "seed must be 0 or more"),
    ({"labels": "shuffled", "subjects": 1}, "two or more subjects"),
]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cohort(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[kind].make(tmp_path_factory.mktemp(kind), subjects=3, seed=3, **KINDS[kind].settings)


def test_the_same_bytes_for_any_number_of_subjects(kind: str, cohort: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def tell(*state: int) -> None:
        progress.append((state[0], state[1]))

    fewer, other = (
        KINDS[kind].make(tmp_path / str(seed), subjects=count, seed=seed, progress=tell, **KINDS[kind].settings)
        for seed, count in ((3, 1), (4, 1))
    )
    pictures = {name: data for name, data in contents(fewer.parent).items() if Path(name).suffix in PICTURES}
    assert pictures
    assert pictures.items() <= contents(cohort.parent).items()
    assert not any(contents(other.parent).get(name) == data for name, data in pictures.items())
    rows = rows_of(fewer)
    assert rows == rows_of(cohort)[: len(rows)]
    assert progress[: len(rows)] == [(done, len(rows)) for done in range(1, len(rows) + 1)]


def test_everything_says_that_it_is_synthetic(cohort: Path) -> None:
    rows = rows_of(cohort)
    assert {row["synthetic"] for row in rows} == {"1"}
    assert all((cohort.parent / row["path"]).is_file() for row in rows)
    note = json.loads((cohort.parent / "phantom.json").read_text())
    assert note["synthetic"] is note["complete"] is True
    assert note["seed"] == 3
    assert MARK in (cohort.parent / "README.txt").read_text()
    assert not list(cohort.parent.rglob("*.partial"))


def test_shuffled_labels_are_another_subjects_and_the_pictures_the_same(
    kind: str, cohort: Path, tmp_path: Path
) -> None:
    shuffled = KINDS[kind].make(tmp_path / "shuffled", subjects=3, seed=3, labels="shuffled", **KINDS[kind].settings)
    pictures = {name: data for name, data in contents(cohort.parent).items() if Path(name).suffix in PICTURES}
    assert pictures.items() <= contents(shuffled.parent).items()
    columns = ("label", "grade", "disease", "erythema", "induration", "scaling", "area")
    labels = [[tuple(row.get(name) for name in columns) for row in rows_of(table)] for table in (cohort, shuffled)]
    assert labels[0] != labels[1]
    assert sorted(labels[0]) == sorted(labels[1])


def test_settings_that_cannot_be_are_refused(kind: str, tmp_path: Path) -> None:
    for wrong, message in [*COMMON, *KINDS[kind].refused]:
        with pytest.raises(CasewiseError, match=message):
            KINDS[kind].make(tmp_path / "new", **KINDS[kind].settings | wrong)
    assert not (tmp_path / "new").exists()


def test_folders_of_others_are_left_alone(kind: str, cohort: Path, tmp_path: Path) -> None:
    make, settings = KINDS[kind].make, KINDS[kind].settings
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CasewiseError, match=f"not a {kind} phantom"):
        make(tmp_path, subjects=1, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    other = make_chest if kind != "chest" else make_regions
    other(tmp_path / "other", subjects=1, images=1, size=(48, 48))
    with pytest.raises(CasewiseError, match=f"not a {kind} phantom"):
        make(tmp_path / "other", subjects=1, **settings)
    with pytest.raises(CasewiseError, match="is a file"):
        make(cohort, subjects=1, **settings)


def test_an_interrupted_phantom_has_no_table_and_can_be_drawn_again(kind: str, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KINDS[kind].make(tmp_path, subjects=1, progress=stop, **KINDS[kind].settings)
    assert not list(tmp_path.glob("*.csv"))
    assert json.loads((tmp_path / "phantom.json").read_text())["complete"] is False
    assert rows_of(KINDS[kind].make(tmp_path, subjects=1, **KINDS[kind].settings))
