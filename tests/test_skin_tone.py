"""Skin tone from photographs: planted colours, what is left out, uncertainty, and where it is refused."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from casewise.cohort.cohort import read_cohort
from casewise.cohort.groups import grouping
from casewise.errors import CasewiseError, CohortError
from casewise.modalities.photographs.skin_tone import UNCERTAIN, group_of, image_ita, with_skin_tone
from casewise.run import run
from casewise.study.evaluation import SKIN_TONE
from casewise.study.loading import build_study, read_study
from tests.conftest import TINY

# ITA -> L* and b* of skin with a* of 10.
ANGLES = (60, 48, 35, 20, -10, -40)


def colour(light: float, red: float, yellow: float) -> np.ndarray:
    """A colour in CIELAB (D65) as sRGB, (3,) uint8."""
    lab = np.array([[[light, red, yellow]]], np.float32)
    return np.rint(255 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[0, 0]).clip(0, 255).astype(np.uint8)


def photograph(ita: float, *, lesions: float = 0.0, seed: int = 0) -> np.ndarray:
    """Skin of this ITA on a green background (3, 64, 64), with red lesions over a share of it, glare and shadow."""
    random, yellow = np.random.default_rng(seed), 16.0
    tile = np.empty((3, 64, 64), np.uint8)
    tile[:] = np.array([60, 120, 90], np.uint8)[:, None, None]
    light = 50 + np.tan(np.radians(ita)) * yellow
    tile[:, 16:] = colour(light, 10, yellow)[:, None, None]
    rows = 16 + int(lesions * 48)
    tile[:, 16:rows] = colour(max(light - 8, 15), 32, 18)[:, None, None]
    tile[:, 60:62], tile[:, 62:] = 255, 2
    noise = random.integers(-3, 4, tile.shape)
    return (tile.astype(int) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ita", ANGLES)
@pytest.mark.parametrize("lesions", [0.0, 0.4, 0.7])
def test_a_planted_angle_is_found_beside_lesions_glare_and_background(ita: int, lesions: float) -> None:
    estimate, share = image_ita(photograph(ita, lesions=lesions))
    assert estimate == pytest.approx(ita, abs=3)
    assert group_of(estimate) == group_of(ita)
    assert share == pytest.approx(0.75 * (1 - lesions) - 4 / 64, abs=0.06)


def test_images_without_healthy_skin_have_no_estimate() -> None:
    for tile in (photograph(48, lesions=1.0), np.full((3, 64, 64), 200, np.uint8)):
        assert np.isnan(image_ita(tile)[0])


def cohort(by_subject: dict[str, list[np.ndarray]]) -> tuple[pd.DataFrame, np.ndarray]:
    subjects = [subject for subject, tiles in by_subject.items() for _ in tiles]
    return pd.DataFrame({"subject": subjects}), np.stack([tile for tiles in by_subject.values() for tile in tiles])


def test_a_subject_has_one_group_or_is_uncertain() -> None:
    of_subject = {"a": [48.0, 48.0, 48.0], "b": [20.0, 35.0, 48.0], "c": [20.0], "d": []}
    tiles = {name: [photograph(ita, seed=i) for i, ita in enumerate(of)] for name, of in of_subject.items()}
    tiles["d"] = [photograph(48, lesions=1.0)] * 2
    images, _ = with_skin_tone(*cohort(tiles), SKIN_TONE)
    groups = images.groupby("subject")[SKIN_TONE].unique().map(list).to_dict()
    assert groups == {"a": ["light"], "b": [UNCERTAIN], "c": [UNCERTAIN], "d": [UNCERTAIN]}
    first = images[images["subject"] == "a"]
    assert first["estimated_ita_mean"].iloc[0] == pytest.approx(first["estimated_ita"].mean())
    assert (first["estimated_ita_low"] < first["estimated_ita_mean"]).all()
    assert (first["estimated_ita_mean"] < first["estimated_ita_high"]).all()
    assert images.loc[images["subject"] == "d", "estimated_ita"].isna().all()


def test_photographs_of_one_region_at_one_visit_count_as_one() -> None:
    tiles = {"a": [photograph(48, seed=n) for n in range(3)], "b": [photograph(48, seed=n) for n in range(3)]}
    rows, pictures = cohort(tiles)
    rows = rows.assign(visit="1", region=["arm", "arm", "arm", "arm", "trunk", "leg"])
    images, _ = with_skin_tone(rows, pictures, SKIN_TONE)
    assert images.groupby("subject")[SKIN_TONE].first().to_dict() == {"a": UNCERTAIN, "b": "light"}


def test_uncertain_tones_are_no_group_that_is_compared() -> None:
    people = pd.Series(list("abc"))
    tones = grouping(pd.Series(["light", UNCERTAIN, ""]), people, people, SKIN_TONE).groups
    assert [(group.name, group.code == "value") for group in tones] == [
        ("light", True),
        (UNCERTAIN, False),
        ("", False),
    ]
    of_table = grouping(pd.Series(["light", UNCERTAIN, ""]), people, people, "margin").groups
    assert [group.code == "value" for group in of_table] == [True, True, False]


def test_phantoms_are_ordered_by_their_skin_type(phantom: Path) -> None:
    rows = pd.read_csv(phantom)
    pictures = [cv2.imread(str(phantom.parent / path), cv2.IMREAD_COLOR) for path in rows["path"]]
    tiles = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).transpose(2, 0, 1) for picture in pictures])
    images, _ = with_skin_tone(rows, tiles, SKIN_TONE)
    subjects = images.drop_duplicates("subject")
    assert subjects["estimated_ita_mean"].corr(subjects["skin_tone"], method="spearman") < -0.95
    ends = subjects.set_index("skin_tone")[SKIN_TONE]
    assert set(ends[ends.index == 1]) <= {"very light", UNCERTAIN}
    assert set(ends[ends.index == 6]) <= {"dark", UNCERTAIN}


def test_grey_images_are_refused() -> None:
    rows = pd.DataFrame({"subject": ["a", "b"]})
    for tiles in (np.full((2, 1, 8, 8), 90, np.uint8), np.full((2, 3, 8, 8), 90, np.uint8)):
        with pytest.raises(CohortError, match="grey"):
            with_skin_tone(rows, tiles, SKIN_TONE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": {"size": 32, "channels": "grey"}}, "colour photographs"),
        ({"tiles": {}}, "slides"),
        ({"evaluation": {"subgroups": [{SKIN_TONE: [1, 2]}]}}, "cut points"),
    ],
)
def test_studies_of_other_images_are_refused(changes: dict[str, object], named: str) -> None:
    values: dict[str, object] = {"name": "a", "cohort": "a.csv", "targets": {"label": ["no", "yes"]}}
    values |= {"backbones": ["test_resnet"], "weights": "random", "evaluation": {"subgroups": [SKIN_TONE]}}
    with pytest.raises(CasewiseError, match=named):
        build_study(values | changes, source="the test's study", folder=Path())


def test_it_is_never_an_input(phantom: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(TINY.format(cohort=phantom) + f"covariates: [{SKIN_TONE}]\n")
    with pytest.raises(CasewiseError, match=SKIN_TONE):
        read_cohort(read_study(path))


def test_a_run_has_the_groups_of_photographs_as_a_subgroup(phantom: Path, tmp_path: Path) -> None:
    text = TINY.format(cohort=phantom).replace("[test_resnet, test_efficientnet]", "[test_resnet]")
    text = text.replace("epochs: 2", "epochs: 1").replace("evaluation: {", f"evaluation: {{subgroups: [{SKIN_TONE}], ")
    (tmp_path / "study.yaml").write_text(text)
    done = run(read_study(tmp_path / "study.yaml"), tmp_path / "run")
    images = done.cohort
    subgroups = done.results.subgroups
    assert subgroups is not None
    (column,) = subgroups.columns
    assert column.column == SKIN_TONE
    rows = done.rows[done.rows["stage"] == done.results.main.stage]
    group_of_subject = images.drop_duplicates("subject").set_index("subject")[SKIN_TONE]
    expected = group_of_subject.loc[sorted(set(rows["subject"]))].value_counts().to_dict()
    assert {group.name: group.n_subjects for group in column.groups} == expected
    assert images["estimated_skin_share"].between(0, 1).all()
