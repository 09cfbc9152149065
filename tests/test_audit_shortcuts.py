"""Shortcuts: figures as scikit-learn has them, p-values that hold, planted marks found, clean cohorts left alone."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom, norm
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from casewise.audit.findings import Audit, Finding
from casewise.audit.metadata import encode, file_features, probed_columns
from casewise.audit.probes import (
    FOLDS,
    Labels,
    ProbeResult,
    _folds,
    adjusted,
    correlation,
    moves,
    probe,
    strength_interval,
)
from casewise.audit.run import audit, with_headings
from casewise.audit.shortcuts import Shortcuts, find_shortcuts, level_of
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.errors import CohortError
from casewise.metrics.roc import ranked_pairs, share
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.study.schema import Study

SIZE = 64
Change = Callable[[np.ndarray, dict[str, Any], np.random.Generator], None]


def make(folder: Path, *, subjects: int = 60, seed: int = 0, change: Change | None = None, **settings: Any) -> Study:
    """Write smooth random films of two classes that nothing tells apart; `change` puts in what does."""
    random, rows = np.random.default_rng([seed, 77]), []
    for subject in range(subjects):
        person = cv2.GaussianBlur(random.normal(size=(SIZE, SIZE)), (0, 0), 8)
        label, site = subject % 2, "ab"[random.integers(2)]
        age, number = int(random.normal(60, 12)), random.integers(1, 4)
        for image in range(number):
            film = person / person.std() + 3 * cv2.GaussianBlur(random.normal(size=(SIZE, SIZE)), (0, 0), 3)
            pixels = (film * 30 + 110 + random.normal(size=film.shape)).clip(0, 255)
            row = {"subject": f"s{subject}", "label": ("ill", "well")[label], "site": site, "age": age}
            if change:
                change(pixels, row, random)
            row = {"path": f"{subject}-{image}.png", **row}
            size, picture = row.pop("size", None), Image.fromarray(pixels.astype(np.uint8))
            (picture.resize(size) if size else picture).save(folder / row["path"])
            rows.append(row)
    with open(folder / "cohort.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    target = {"classes": ["ill", "well"], "level": "image"}
    stated = {"targets": {"label": target}, "audit": {"permutations": 199}, **settings}
    return Study.model_validate(
        {"name": "t", "cohort": folder / "cohort.csv", "panels": {"by": "image"}, "backbones": ["resnet18"], **stated}
    )


def opened(study: Study) -> tuple[Cohort, TileStore]:
    cohort = read_cohort(study)
    return cohort, prepare([Path(p) for p in cohort.images["path"]], Preparation(size=SIZE), study.cohort.parent / "t")


def look(study: Study, **options: Any) -> Shortcuts:
    return find_shortcuts(study, *opened(study), **options)


def levels(found: Shortcuts) -> dict[str, str]:
    return {finding.id: finding.level for finding in found.findings if finding.level != "note"}


def corner(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
    """A small bright mark in a corner that follows the class, some pixels here or there."""
    if row["label"] == "ill":
        down, across = random.integers(2, 6, 2)
        pixels[down : down + 4, across : across + 4] = 235


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_auroc_is_that_of_scikit_learn_with_weights_and_ties(seed: int, values: int) -> None:
    random = np.random.default_rng(seed)
    scores, positive = random.integers(0, values, (3, 40)).astype(float), random.random((3, 40)) < 0.4
    positive[:, :2] = [True, False]
    weights = random.random(40) + 0.1
    expected = [roc_auc_score(p, s, sample_weight=weights) for p, s in zip(positive, scores, strict=True)]
    np.testing.assert_allclose(share(*ranked_pairs(scores, positive, weights)), expected, atol=1e-9)


def test_correlation_is_the_weighted_one_of_numpy() -> None:
    random = np.random.default_rng(1)
    scores, values, weights = random.normal(size=(2, 30)), random.normal(size=(2, 30)), random.random(30)
    expected = []
    for s, v in zip(scores, values, strict=True):
        cov = np.cov(s, v, aweights=weights)
        expected.append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
    np.testing.assert_allclose(correlation(scores, values, weights), expected, atol=1e-9)
    assert correlation(np.ones((1, 3)), np.arange(3.0)[None], np.ones(3)).tolist() == [0.0]


def test_scores_are_those_of_ridge_regression_fold_by_fold() -> None:
    random, subjects = np.random.default_rng(2), np.repeat(np.arange(40), 3)
    features = random.normal(size=(120, 3)) * [1, 10, 0.1] + 5
    labels = Labels.of(random.normal(size=120), subjects, [], permutations=9, seed=0)
    told = probe(features, labels, seed=0)
    folds = _folds(labels.subjects, 0)
    for fold in range(FOLDS):
        train = folds != fold
        weights = labels.weights[train]
        scale = StandardScaler().fit(features[train], sample_weight=weights)
        ridge = Ridge(alpha=1e-3 * weights.sum(), fit_intercept=False)
        ridge.fit(scale.transform(features[train]), labels.values[train] - labels.values.mean(), sample_weight=weights)
        expected = ridge.predict(scale.transform(features[~train]))
        # Float32 scores; three standardised columns are far from the clipping at four.
        np.testing.assert_allclose(told.scores[~train, 0], expected, atol=2e-3)


def test_the_label_of_a_subject_is_not_learned_from_its_other_images() -> None:
    subjects = np.repeat(np.arange(40), 3)
    labels = Labels.of(np.random.default_rng(0).normal(size=40)[subjects], subjects, [], permutations=9, seed=0)
    assert abs(probe(np.eye(40)[subjects], labels, seed=0).value) < 0.5  # about 1, were subjects in two folds


@given(st.lists(st.integers(1, 5), min_size=2, max_size=20), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_labels_move_with_their_subject(sizes: list[int], seed: int) -> None:
    subjects = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    for moved in moves(subjects, 5, seed):
        givers = [set(subjects[moved[subjects == subject]]) for subject in range(len(sizes))]
        assert all(len(giver) == 1 for giver in givers)
        assert sorted(next(iter(giver)) for giver in givers) == list(range(len(sizes)))


def test_p_values_hold_where_images_of_a_subject_are_alike() -> None:
    below = 0
    for seed in range(200):
        random = np.random.default_rng([seed, 1])
        subjects = np.repeat(np.arange(40), random.integers(1, 9, 40))
        features = random.normal(size=(40, 4))[subjects] + 0.1 * random.normal(size=(len(subjects), 4))
        labels = Labels.of(random.integers(0, 2, 40)[subjects] * 1.0, subjects, ["a", "b"], permutations=99, seed=seed)
        told = probe(features, labels, seed=seed)
        below += told.p <= 0.1
    # Moved image by image, one in four would be below.
    assert binom.ppf(0.0005, 200, 0.1) <= below <= binom.ppf(0.9995, 200, 0.1)


def test_evidence_of_one_class_of_several_is_found_and_chance_is_not() -> None:
    found = {0.0: 0, 1.2: 0}
    for seed, shift in ((seed, shift) for seed in range(40) for shift in found):
        random = np.random.default_rng([seed, 2])
        classes = random.permutation(np.arange(60) % 4).astype(float)
        features = random.normal(size=(60, 2)) + shift * (classes == 2)[:, None]
        labels = Labels.of(classes, range(60), list("abcd"), permutations=99, seed=seed)
        result = probe(features, labels, seed=seed)
        found[shift] += adjusted([result, ProbeResult(0.5, {}, random.normal(0.5, 0.05, 99), np.zeros(0))])[0] <= 0.02
    # The mean AUROC of all classes finds 24 of 40.
    assert found[1.2] >= 32
    assert found[0.0] <= binom.ppf(0.999, 40, 0.02)


def test_adjusted_p_values_hold_together_and_still_reach_the_floor() -> None:
    random = np.random.default_rng(4)
    null = random.normal(0.5, 0.03, (40, 199))
    told = [ProbeResult(0.9, {}, null[0], np.zeros(0)), *(ProbeResult(0.52, {}, row, np.zeros(0)) for row in null[1:])]
    p = adjusted(told)
    assert p[0] == 1 / 200
    assert all(one >= each.p - 1e-12 for one, each in zip(p, told, strict=True))
    assert adjusted(told[1:2]) == [pytest.approx(told[1].p)]
    false = sum(
        min(adjusted([ProbeResult(row[0], {}, row[1:], np.zeros(0)) for row in random.normal(size=(10, 100))])) <= 0.1
        for _ in range(200)
    )
    assert false <= binom.ppf(0.999, 200, 0.1)


def test_columns_are_read_as_what_they_hold() -> None:
    dates = ["January 22, 2020", "2020-02-03", "3/7/2020", "2015", "", "March 2003", "January 12", "03/16/20"]
    column = encode("date", dates, range(8))
    assert column.kind == "dates"
    years = column.features[:, 0]
    assert years[[0, 1, 2, 3, 5, 7]].tolist() == [2020, 2020, 2020, 2015, 2003, 2020]
    assert column.features[:, 2].tolist() == [0, 0, 0, 0, 1, 0, 1, 0]
    assert column.filled.tolist() == [True] * 4 + [False] + [True] * 3
    assert encode("native_size", ["1024x768", "10x10"] * 6, range(12)).kind == "sizes"
    assert encode("age", [f"0{age}Y" for age in range(20, 60)], range(40)).features[3, 0] == 23
    assert encode("sex", ["0", "1"] * 10, range(20)).kind == "levels"
    rare = encode("site", [*["a"] * 5, *["b"] * 6, "c", "d"], [*range(5), *["one"] * 6, 7, 8]).features
    # Six images of one subject are one subject; b, c and d are lumped.
    assert rare.sum(axis=0).tolist() == [5, 8]
    assert encode("id", [str(i) + "x" for i in range(50)], range(50)).features.shape[1] == 1
    many = encode("site", [f"v{i % 40}" for i in range(400)], range(400)).features
    assert many.shape[1] == 31


def test_usual_columns_are_chosen_by_name_and_labels_never(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        row |= {"Patient Sex": "f", "grade": 1, "finding": row["label"], "source": "x", "lung_mask": "", "view": "PA"}

    targets = {"label": {"classes": ["ill", "well"], "level": "image"}, "stage": {"range": "0..150", "column": "age"}}
    study = make(tmp_path, subjects=6, change=change, targets=targets, outputs=["label"])
    images = read_cohort(study).images
    assert probed_columns(study, images) == ["site", "Patient Sex", "source", "view"]
    stated = study.model_copy(update={"audit": study.audit.model_copy(update={"columns": ["sight"]})})
    with pytest.raises(CohortError, match=r"'sight'.* Did you mean 'site'\?"):
        probed_columns(stated, images)
    stated = study.model_copy(update={"audit": study.audit.model_copy(update={"columns": ["label"]})})
    with pytest.raises(CohortError, match="'label'"):
        probed_columns(stated, images)


def test_planted_corner_is_an_error_and_a_clean_cohort_is_left_alone(tmp_path: Path) -> None:
    flagged = 0
    for seed in range(2):
        (clean := tmp_path / f"clean{seed}").mkdir()
        (marked := tmp_path / f"marked{seed}").mkdir()
        flagged += bool(levels(look(make(clean, seed=seed))))
        found = look(make(marked, seed=seed, change=corner))
        assert levels(found)["shortcut-border"] == "error"
        border = next(f for f in found.findings if f.id == "shortcut-border")
        assert (border.figures["evidence"], border.figures["metric"]) == ("border (its corners)", "auroc")
    assert flagged <= 1


def test_marks_at_any_place_are_found_in_files_and_a_gamma_by_its_grey_levels(tmp_path: Path) -> None:
    def letter(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        if (row["label"] == "ill") == (random.random() < 0.95):
            across, down = (int(value) for value in random.integers(12, 42, 2))
            film = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))
            pixels[:] = cv2.putText(film, "R", (across, down), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 250, 1)

    def gamma(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        if row["label"] == "ill":
            pixels[:] = np.rint(255 * (np.floor(pixels.clip(0, 255)) / 255) ** 0.85)

    for name, change in (("marks", letter), ("grey-levels", gamma)):
        (tmp_path / name).mkdir()
        study = make(tmp_path / name, subjects=120, change=change)
        strengths = {str(test["evidence"]): test for test in look(study).tested}
        assert strengths[name]["value"] > 0.8
        assert strengths[name]["p_adjusted"] <= 0.01
        other = {"marks": "grey-levels", "grey-levels": "marks"}[name]
        assert other not in strengths or strengths[other]["value"] < 0.7


def test_an_error_needs_an_interval_above_its_limit() -> None:
    errors = {0.80: 0, 0.95: 0}
    inside = 0
    for seed, auroc in ((seed, auroc) for seed in range(120) for auroc in errors):
        random = np.random.default_rng([seed, 6])
        classes = random.permutation(np.arange(100) % 2).astype(float)
        features = (random.normal(size=100) + norm.ppf(auroc) * 2**0.5 * classes)[:, None]
        labels = Labels.of(classes, range(100), ["a", "b"], permutations=0, seed=seed)
        low, high = strength_interval(probe(features, labels, seed=seed), labels, seed=seed)
        errors[auroc] += level_of("border", low, classed=True) == "error"
        inside += low <= auroc <= high
    # by the figure alone, half of the first would be errors
    picked = 0
    for seed in range(120):
        random = np.random.default_rng([seed, 8])
        classes = random.permutation(np.arange(200) % 5).astype(float)
        features = random.normal(size=(200, 5)) + norm.ppf(0.80) * 2**0.5 * np.eye(5)[classes.astype(int)]
        labels = Labels.of(classes, range(200), list("abcde"), permutations=0, seed=seed)
        result = replace(probe(features, labels, seed=seed), scores=features)
        areas = [float(roc_auc_score(classes == k, features[:, k])) for k in range(5)]
        result = replace(result, by_class=dict(zip("abcde", areas, strict=True)), value=float(np.mean(areas)))
        picked += strength_interval(result, labels, seed=seed)[0] >= 0.80
    # the best of five classes of equal strength is picked
    assert picked <= binom.ppf(0.999, 120, 0.05)
    assert errors[0.80] <= binom.ppf(0.999, 120, 0.05)
    assert errors[0.95] >= 100
    assert 0.80 <= inside / 240 <= 0.97


def test_the_interval_of_a_correlation_contains_it() -> None:
    inside = 0
    for seed in range(80):
        random = np.random.default_rng([seed, 7])
        values = random.normal(size=100)
        features = (0.6 * values + 0.8 * random.normal(size=100))[:, None]
        labels = Labels.of(values, range(100), [], permutations=0, seed=seed)
        low, high = strength_interval(probe(features, labels, seed=seed), labels, seed=seed)
        inside += low <= 0.6 <= high
    assert 0.8 <= inside / 80 <= 0.98


def strongest(found: Shortcuts) -> float:
    return max(test["value"] for test in found.tested if str(test["evidence"]).startswith("border"))


def test_a_border_of_fields_is_compared_with_their_interior(tmp_path: Path) -> None:
    def texture(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        if row["label"] == "ill":
            pixels += random.normal(size=pixels.shape) * 12

    for name, change, level in (("tissue", texture, None), ("marked", corner, "error")):
        (tmp_path / name).mkdir()
        study = make(tmp_path / name, change=change)
        cohort, tiles = opened(study)
        image = find_shortcuts(study, cohort, tiles)
        stated = study.model_copy(update={"audit": study.audit.model_copy(update={"fields": True})})
        field = find_shortcuts(stated, cohort, tiles)
        assert strongest(image) > 0.9
        assert levels(field).get("shortcut-border") == level
        assert (strongest(field) > 0.8) == (name == "marked")
        slide = find_shortcuts(stated, cohort, replace(tiles, overview=True, cut=True))
        assert strongest(slide) > 0.9
        assert "shortcut-border" not in levels(slide)


def test_source_is_named_with_its_figure_and_what_only_marks_it_is_not_an_error(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        site = "ab"[(row["label"] == "ill") ^ (int(row["subject"][1:]) % 20 < 2)]
        row |= {"site": site, "age": row["age"] if site == "a" else ""}
        pixels += 40 * (site == "a")

    study = make(tmp_path, subjects=240, change=change)
    cohort, tiles = opened(study)
    found = find_shortcuts(study, cohort, tiles)
    assert (levels(found)["shortcut-site"], levels(found)["shortcut-age"]) == ("error", "warning")
    first = found.findings[0]
    assert first.id == "shortcut-site"
    images = cohort.images
    weights = 1 / images.groupby("subject")["subject"].transform("size")
    expected = roc_auc_score(images["label"] == 0, images["site"] == "b", sample_weight=weights)
    # Two levels order the subjects of every fold alike, so that out of fold is about as in fold.
    assert first.figures["value"] == pytest.approx(expected, abs=0.015)
    assert first.figures["p_adjusted"] == pytest.approx(0.005, abs=0.0005)
    assert (
        f"The column site alone predicts label with AUROC {first.figures['value']:.2f} (chance 0.50, p = 0.005)"
        in first.sentence
    )
    assert "leave_out: site" in first.remedy
    assert levels(found)["source-predictable-ill"] == "warning"
    # naming another column does not silence the site
    stated = study.model_copy(update={"audit": study.audit.model_copy(update={"columns": ["age"]})})
    assert levels(find_shortcuts(stated, cohort, tiles))["shortcut-site"] == "error"
    images = cohort.images.drop(columns="site")
    findings = find_shortcuts(study, replace(cohort, images=images), tiles).findings
    age = next(finding for finding in findings if finding.id == "shortcut-age")
    assert age.level == "error"
    assert age.sentence.startswith("Whether the column age is filled in")


@pytest.mark.parametrize(
    ("prefixes", "level"), [(("siteA_", "UKE-"), "warning"), (("ill_", "well_"), None), (("img", "img"), None)]
)
def test_a_prefix_of_file_names_is_evidence(tmp_path: Path, prefixes: tuple[str, str], level: str | None) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        row["path"] = f"{prefixes[row['label'] == 'well']}{random.integers(10**9)}.png"

    assert levels(look(make(tmp_path, change=change))).get("shortcut-file-name") == level


def test_compression_is_read_from_the_header(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8))
    paths = [tmp_path / f"{quality}.jpg" for quality in (95, 95, 30, 30)]
    for path in paths:
        picture.save(path, quality=int(path.stem))
    index = pd.DataFrame({"path": map(str, paths), "width": 32, "height": 32, "mode": "L", "format": "JPEG"})
    features = file_features(index, range(4))
    varying = features[:, (features != features[0]).any(axis=0)]
    assert (varying[0] == varying[1]).all()
    assert varying[2, 0] > varying[0, 0]


def with_masks(folder: Path, mark: str) -> Study:
    """A quarter of the image is the anatomy; ill images are brighter inside it, or outside it."""

    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        inside = np.zeros((SIZE, SIZE), bool)
        inside[16:48, 16:48] = True
        pixels[inside if mark == "inside" else ~inside] += 30 * (row["label"] == "ill")
        name = f"mask-{row['subject']}.png"
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / name)
        row["lungs"] = name

    return make(folder, subjects=60, change=change, audit={"permutations": 199, "mask": "lungs"})


def test_what_lies_outside_the_anatomy(tmp_path: Path) -> None:
    for mark in ("inside", "outside"):
        (tmp_path / mark).mkdir()
    found = look(with_masks(tmp_path / "outside", "outside"))
    assert levels(found)["shortcut-outside-anatomy"] == "error"
    found = look(with_masks(tmp_path / "inside", "inside"))
    assert "shortcut-outside-anatomy" not in {f.id for f in found.findings}
    assert "shortcut-thumbnail" in {f.id for f in found.findings}
    asked = [question["evidence"] for question in found.tested]
    assert "outside-anatomy" in asked


def test_a_network_is_shown_borders_and_what_lies_outside(tmp_path: Path) -> None:
    shown = []

    def embed(tiles: np.ndarray) -> np.ndarray:
        shown.append(tiles)
        return tiles.astype(np.float32).mean(axis=(2, 3))

    study = with_masks(tmp_path, "inside")
    found = look(study, embed=embed)
    seen = {f"{name} (seen by a network)" for name in ("border", "outside-anatomy")}
    assert {q["evidence"] for q in found.tested} >= seen
    borders, outsides = shown[0], shown[-1]
    assert borders.dtype == np.uint8
    assert (borders[:, :, 8:-8, 8:-8].std(axis=(2, 3)) == 0).all()
    assert (borders[:, :, :8].std(axis=(2, 3)) > 0).all()
    assert (outsides[:, :, 16:48, 16:48].std(axis=(2, 3)) == 0).all()
    assert "shortcut-border" not in {f.id for f in found.findings}


def test_numbers_and_grades(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        grade = int(row["subject"][1:]) % 4
        row |= {"grade": grade, "extent": grade + random.random(), "age": 40 + 10 * grade + int(random.integers(9))}

    targets = {"grade": {"kind": "ordinal", "range": "0..3", "level": "image"}}
    targets["extent"] = {"range": "0..5", "level": "image"}
    found = look(make(tmp_path, change=change, targets=targets))
    grade, extent = (next(f for f in found.findings if f.figures["target"] == t) for t in ("grade", "extent"))
    assert (grade.id, extent.id) == ("shortcut-age-grade", "shortcut-age-extent")
    assert (extent.figures["metric"], extent.level) == ("r", "error")
    assert extent.figures["value"] > 0.9
    assert f"r = {extent.figures['value']:.2f}" in extent.sentence
    best = max(grade.figures["by_class"], key=lambda name: grade.figures["by_class"][name])
    assert best in ("0", "3")
    assert f"for grade {best}" in grade.sentence


def test_what_no_test_looked_at_is_named(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        for name in ("weight", "height", "first", "second", "third"):
            row[name] = round(60 + 20 * random.random(), 2)
        row["height"] = 60 + 0.5 * int(row["subject"][1:])  # a covariate has one value in a case

    study = make(tmp_path, subjects=40, change=change)
    study = study.model_copy(update={"covariates": ["height"]})
    cohort, tiles = opened(study)
    without, network = (
        audit(study, cohort, tiles, None, embed=embed).facts["not_examined"]
        for embed in (None, lambda images: np.ones((len(images), 4), np.float32))
    )
    # no network, small tiles and the numbers of a column; marks were examined
    assert (len(without), len(network)) == (3, 2)
    assert set(network) < set(without)
    assert sum("weight" in item and "height" in item for item in network) == 1
    assert not any("second" in item or "third" in item for item in network)  # the first three and a count
    assert sum("64" in item for item in network) == 1


def test_images_of_one_grey_are_named(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        if row["subject"] in ("s3", "s7"):
            pixels[:] = {"s3": 0, "s7": 255}[row["subject"]]

    study = make(tmp_path, subjects=40, change=change)
    cohort, tiles = opened(study)
    found = {f.id: f for f in audit(study, cohort, tiles, None).findings}
    images = cohort.images
    blank = images.loc[images["subject"].isin(["s3", "s7"]), "path"].map(lambda path: Path(path).name).tolist()
    assert [Path(path).name for path in found["blank-images"].figures["images"]] == blank
    assert all(name in found["blank-images"].sentence for name in blank[:5])
    assert found["blank-images"].level == "warning"


def test_sentences_name_a_target_by_its_heading_and_code_does_not(tmp_path: Path) -> None:
    study = make(tmp_path, subjects=40, change=lambda pixels, row, random: None)
    (name, target), *_ = study.targets.items()
    heading = f"{name[:3]}-{name[3:]}"
    headed = study.model_copy(update={"targets": {name: target.model_copy(update={"column": heading})}})
    finding = Finding("shortcut-x", "note", f"{name} and images/{name}/1.png, `{name}: 1`.", remedy=f"Correct {name}.")
    named, same = (with_headings(Audit([finding], facts={"not_tested": []}), each) for each in (headed, study))
    assert named.findings[0].sentence == f"{heading} and images/{name}/1.png, `{name}: 1`."
    assert named.findings[0].remedy == f"Correct {heading}."
    assert same.findings == [finding]
