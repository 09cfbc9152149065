"""The guess at persons whom nobody names: groups of similar neighbours, no alarm without signal, and its use."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.audit.subjects import FOUND_PAIRS, STRANGERS, guess_findings
from casewise.cohort.cohort import read_cohort
from casewise.errors import CasewiseError
from casewise.plugins.init.guessed_subjects import HIGHEST_P, guess_subjects, picture_features
from casewise.plugins.init.own_data import plan_study
from casewise.splits.grouped import split
from casewise.study.loading import read_study
from casewise.study.schema import Study


def pictures(colours: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Noisy pictures of one colour each."""
    return [np.clip(colour + random.normal(0, 12, (24, 32, 3)), 0, 255).round().astype(np.uint8) for colour in colours]


def folder_of(folder: Path, images: list[np.ndarray]) -> Path:
    """Images in two folders of classes; neighbouring numbers have both classes in turn of six."""
    for number, image in enumerate(images):
        path = folder / "ab"[number // 6 % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_similar_neighbours_are_one_group() -> None:
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 3)
    features = np.concatenate(
        list(picture_features(pictures(random.uniform(40, 215, (40, 3))[person], random)).values()), axis=1
    )
    guess = guess_subjects([f"{number}.png" for number in range(120)], features)
    assert guess is not None
    assert guess.p == 0.005
    same = person[:, None] == person
    joined = guess.group[:, None] == guess.group
    assert (joined & same).sum() / same.sum() > 0.9
    assert (joined & same).sum() / joined.sum() > 0.7
    # files of other series are no neighbours
    apart = guess_subjects([f"{'ab'[number % 2]}{number // 2}.png" for number in range(120)], features)
    assert apart is not None
    assert (apart.group % 2 == np.arange(120) % 2).all()
    assert len(set(apart.group)) < 100
    assert guess_subjects([f"{number}.png" for number in range(20)], features[:20]) is None


def test_nothing_is_guessed_without_signal() -> None:
    random = np.random.default_rng(1)
    paths = [f"{number}.png" for number in range(80)]
    guesses = [guess_subjects(paths, random.normal(size=(80, 3)), seed=seed) for seed in range(60)]
    assert all(guesses)
    assert sum(guess.p <= HIGHEST_P for guess in guesses if guess) <= 3  # 0.6 are expected


def test_init_offers_the_guess_and_uses_it_if_asked(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    person = np.repeat(np.arange(60), 2)
    images = folder_of(tmp_path / "in", pictures(random.uniform(40, 215, (60, 3))[person], random))
    plan = plan_study(table=None, images=images, folder=tmp_path / "plain")
    offer = next(doubt for doubt in plan.doubts if "--subject guess" in doubt)
    assert FOUND_PAIRS in offer
    assert STRANGERS in offer
    assert re.search(r"\d+ of 1\d\d pairs", offer)
    assert "subjects_guessed" not in plan.text
    assert "visit" not in plan.files["cohort.csv"].decode()
    plan_study(table=None, images=images, subject="guess", folder=tmp_path / "guessed").write()
    study = read_study(tmp_path / "guessed" / "study.yaml")
    assert (study.subjects_known, study.subjects_guessed, study.unit) == (False, True, "guessed subject")
    cohort = read_cohort(study)
    assert cohort.images["subject"].nunique() < 90
    assert len(cohort.cases) == 120  # every image is a case
    assert set(split(cohort, study).side) == set(cohort.images["subject"])
    with pytest.raises(ValueError, match="subjects_known"):
        Study(**study.model_dump(exclude_unset=True) | {"subjects_known": True, "split": {}})
    (finding,) = guess_findings(study)
    assert (finding.id, finding.level) == ("subjects-guessed", "note")


def test_a_guess_from_nothing_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    images = folder_of(tmp_path / "in", pictures(random.uniform(40, 215, (120, 3)), random))
    plan = plan_study(table=None, images=images, folder=tmp_path / "plain")
    assert not any("guess" in doubt for doubt in plan.doubts)
    with pytest.raises(CasewiseError, match="--subject guess"):
        plan_study(table=None, images=images, subject="guess", folder=tmp_path / "guessed")
