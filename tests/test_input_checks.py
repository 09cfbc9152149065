"""Input checks: limits from training images and subjects out of fold, and the flags of new cases."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.errors import RunError
from casewise.inference import input_checks as checks
from casewise.inference.drift import NAMES, drift, quantiles_of
from casewise.inference.flag_reasons import IN_GREY, LOOK, NEGATIVE, UPSIDE_DOWN, possible_reasons
from casewise.inference.image_measures import GRID, Measures, Training, measure
from casewise.inference.input_checks import fit_limits, image_flags
from casewise.inference.look import EarlyMaps
from casewise.inference.model import load_bundle
from casewise.inference.orientation_checks import fit_score, turned_difference
from casewise.inference.output_table import predict_to_file
from casewise.inference.region_checks import fit_regions
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.models.threads import on_threads
from casewise.run import Run
from tests.test_cli import casewise


def drawn(count: int, seed: int, *, upright: bool = True) -> Measures:
    """Images that are darker at the top, if they are upright, and mostly dark."""
    random, centre = np.random.default_rng(seed), 0.1 * np.outer(np.hanning(GRID), np.hanning(GRID))
    slope = np.linspace(-0.1, 0.1, GRID)[None, :, None] * (1 if upright else random.choice([-1, 1], (count, 1, 1)))
    grids = np.clip(
        0.3 + centre + slope + random.normal(0, 0.03, (count, GRID, GRID)) + random.normal(0, 0.02, (count, 1, 1)), 0, 1
    )
    values = np.zeros((count, len(NAMES)))
    values[:, 0], values[:, 1] = grids.mean(axis=(1, 2)), 0.15 + random.normal(0, 0.01, count)
    values[:, 4] = 9 + random.normal(0, 0.2, count)
    return Measures(values, grids)


def training(count: int = 200, **kwargs: Any) -> Training:
    names = np.array([f"s{number}" for number in range(count)])
    return Training(drawn(count, 0, **kwargs), names, names, np.arange(count) % 5, np.full(count, ""))


def changed(measures: Measures, **numbers: float) -> Measures:
    values = measures.values.copy()
    for name, number in numbers.items():
        values[:, NAMES.index(name)] = number
    return Measures(values, measures.grids)


def test_altered_images_are_flagged_with_their_reason() -> None:
    limits, new = fit_limits(training()), drawn(50, 1)
    altered = {
        "upside down": Measures(new.values, new.grids[:, ::-1, ::-1]),
        "negative": Measures(changed(new, brightness=0.7).values, 1 - new.grids),
        "much darker": changed(new, brightness=0.01),
        "much lighter": changed(new, brightness=0.95),
        "much smaller": changed(new, size=5.0),
        "in colour": changed(new, colour=0.4),
        "wider": changed(new, shape=2.0),
        "nearly uniform": changed(new, contrast=0.0),
        "more black": changed(new, black=0.9),
    }
    for reason, measures in altered.items():
        flags = image_flags(limits, measures)
        assert np.mean([any(reason in text for text in texts) for texts in flags]) > 0.95, reason


def test_turned_negative_and_dark_images_are_told_apart() -> None:
    limits, new = fit_limits(training()), drawn(50, 1)
    turned, both = new.grids[:, ::-1, ::-1], 1 - new.grids[:, ::-1, ::-1]
    down, negative = UPSIDE_DOWN, NEGATIVE
    expected = [(turned, [down]), (1 - new.grids, [negative]), (both, [negative, down])]
    for grids, reasons in [*expected, (new.grids / 4, [])]:
        flags = image_flags(limits, Measures(new.values, grids))
        assert np.mean([texts == reasons for texts in flags]) > 0.9, reasons


def test_held_out_images_of_the_same_source_are_rarely_flagged() -> None:
    limits = fit_limits(training())
    assert np.mean([bool(texts) for texts in image_flags(limits, drawn(2000, 2))]) <= 0.04
    assert json.loads(json.dumps(asdict(limits)))["subjects"] == 200


def test_images_without_an_upright_position_have_no_such_check() -> None:
    assert fit_score(training(), turned_difference, 0.005)
    assert fit_score(training(upright=False), turned_difference, 0.005) is None


def test_images_of_training_in_colour_flag_grey_ones() -> None:
    measured = training()
    coloured = replace(measured, measures=changed(measured.measures, colour=0.4))
    flags = image_flags(fit_limits(coloured), changed(drawn(3, 1), colour=0.0))
    assert all(any("grey" in text for text in texts) for texts in flags)
    varied = replace(measured, measures=changed(measured.measures, colour=np.linspace(0.1, 0.6, len(measured.folds))))
    limits = fit_limits(varied)
    assert limits.ranges["colour"][0] == IN_GREY  # without it the tolerance would reach below 0
    assert all(any("grey" in text for text in texts) for texts in image_flags(limits, changed(drawn(3, 1), colour=0.0)))


def test_few_subjects_give_no_limits() -> None:
    assert fit_limits(training(7)).ranges == {}
    assert image_flags(fit_limits(training(7)), changed(drawn(2, 1), brightness=1.0)) == [[], []]


def of_regions(subjects: int, seed: int, *, alike: tuple[str, ...] = ()) -> Training:
    """A case of each subject with an image of a face, a hand and a leg: bright in another corner, unless alike."""
    random, regions = np.random.default_rng(seed), np.tile(["face", "hand", "leg"], subjects)
    grids, half = random.normal(0.4, 0.05, (len(regions), GRID, GRID)), GRID // 2
    corners = {"face": (slice(half), slice(half)), "hand": (slice(half, None), slice(half))}
    corners["leg"] = (slice(half, None), slice(half, None))
    for number, region in enumerate(regions):
        if region not in alike:
            grids[number][corners[region]] += random.uniform(0.1, 0.2)
    values = np.zeros((len(regions), len(NAMES)))
    values[:, NAMES.index("brightness")], values[:, NAMES.index("contrast")] = grids.mean(axis=(1, 2)), 0.15
    values[:, NAMES.index("size")] = 9
    names = np.repeat([f"s{number}" for number in range(subjects)], 3)
    return Training(Measures(values, grids), names, names, np.repeat(np.arange(subjects) % 5, 3), regions)


def test_images_of_another_region_are_recognised() -> None:
    limits, new = fit_limits(of_regions(60, 0)), of_regions(300, 1)
    assert limits.wrong_region.distinct == (("face", "hand"), ("face", "leg"), ("hand", "leg"))
    own = image_flags(limits, new.measures, new.regions.tolist())
    of_cases = np.array([any("looks like" in text for text in texts) for texts in own]).reshape(-1, 3).any(axis=1)
    assert of_cases.mean() <= 0.02
    stated = np.roll(new.regions.reshape(-1, 3), 1, axis=1).ravel()
    swapped = image_flags(limits, new.measures, stated.tolist())
    expected = [f"looks like an image of {a}, not of {b}" for a, b in zip(new.regions, stated, strict=True)]
    assert np.mean([reason in texts for reason, texts in zip(expected, swapped, strict=True)]) > 0.95
    assert not any("looks like" in text for texts in image_flags(limits, new.measures) for text in texts)
    unnamed = image_flags(limits, new.measures, ["elsewhere"] * len(new.regions))
    assert not any("looks like" in text for texts in unnamed for text in texts)


def test_only_distinct_regions_are_compared() -> None:
    score = fit_regions(of_regions(60, 0, alike=("hand", "leg")), 0.005)
    assert score.distinct == (("face", "hand"), ("face", "leg"))
    new = of_regions(100, 1, alike=("hand", "leg"))
    hands, faces = new.subset(new.regions == "hand"), new.subset(new.regions == "face")
    assert not any(score.suspected(hands.measures, np.full(len(hands.regions), "leg")))
    assert np.mean([name == "face" for name in score.suspected(faces.measures, np.full(100, "leg"))]) > 0.95


def test_a_case_without_an_expected_sequence_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fit_limits(training(), (), checks.expected_names([frozenset({"t1", "flair"})] * 9))
    table = {"case": ["A", "A", "B"], "path": ["x/a.nii", "x/b.nii", "x/c.nii"], "region": "", "sequence": ["t1"] * 3}
    table["sequence"][1] = "flair"
    new: Any = SimpleNamespace(cohort=SimpleNamespace(images=pd.DataFrame(table)), store=None)
    measured = drawn(3, 1)
    monkeypatch.setattr(checks, "measure", lambda store, rows, maps: measured.subset(np.array(rows)))
    assert checks.case_flags(limits, new) == {"A": "", "B": "no scan of the sequence flair"}


def with_maps(measures: Measures, seed: int, *, shift: float = 0.0) -> Measures:
    """With statistics of maps, of which one is changed; each is much the same in all images."""
    maps = np.random.default_rng(seed).normal(0, 1, (len(measures), 6)) * [1, 1, 1, 1, 1, 0.1] + [0, 0, 0, 0, 0, shift]
    return replace(measures, maps=maps)


def test_images_of_another_look_are_flagged() -> None:
    own = replace(training(), measures=with_maps(drawn(200, 0), 0))
    look, limits = checks.fit_look(fit_limits(own), own, None, [])
    for new, least, most in ((with_maps(drawn(2000, 2), 2), 0.0, 0.06), (with_maps(drawn(50, 1), 1, shift=1), 0.95, 1)):
        flags = image_flags(limits, new, look=look)
        assert least <= np.mean([LOOK in texts for texts in flags]) <= most
        assert not any(LOOK in texts for texts in image_flags(fit_limits(own), new, look=None))
    assert set(possible_reasons(limits)) >= {LOOK}


def test_as_few_new_cases_of_the_source_are_flagged_as_stated_with_many_features() -> None:
    shares, random = [], np.random.default_rng(0)
    shared = random.normal(0, 0.5, (6, 100))
    for seed in range(8):
        own, new = (
            replace(
                drawn(count, seed), maps=random.normal(size=(count, 6)) @ shared + random.normal(0, 0.3, (count, 100))
            )
            for count in (100, 300)
        )
        data = replace(training(100), measures=own)
        look, limits = checks.fit_look(fit_limits(data), data, None, [])
        shares.append(np.mean(look.distance(new.look) > limits.look.limit))
    assert np.mean(shares) <= 0.05


def test_a_source_is_held_out_to_set_the_limit() -> None:
    own = replace(training(), measures=with_maps(drawn(200, 0), 0))
    own.measures.maps[:, :4] += 5 * np.eye(4)[np.arange(200) % 4]
    within, between = (checks.fit_look(fit_limits(own), own, None, sources) for sources in ([], list(range(4)) * 50))
    assert between[1].look.limit > 1.2 * within[1].look.limit
    nearly_one = checks.fit_look(fit_limits(own), own, None, ["north"] * 194 + ["south", "west"] * 3)
    assert nearly_one[1].look == within[1].look  # without the north too few are left
    # new cases of the same sources are no drift, although each source was held out
    new = with_maps(drawn(200, 1), 1)
    new.maps[:, :4] += 5 * np.eye(4)[np.arange(200) % 4]
    numbers = checks.numbers_of_batch(new, between[0])
    names = pd.DataFrame({"case": np.arange(200).astype(str), "subject": np.arange(200).astype(str)})
    assert drift([names.assign(**numbers)], between[1].quantiles, 200).text == ""
    rarer = numbers | {"look": numbers["look"] + 9}
    assert "a rarer look" in drift([names.assign(**rarer)], between[1].quantiles, 200).text


def test_images_of_any_shape_have_as_many_statistics() -> None:
    from casewise.models.backbones import build_network

    maps = EarlyMaps(build_network("mobilenet_v2", 1))
    shapes = [(224, 224), (96, 128), (128, 96), (90, 224)]  # of 96 × 128 one map has as many rows as channels
    assert {len(maps.statistics(np.zeros((3, *shape), np.uint8))) for shape in shapes} == {112}


def test_statistics_of_images_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    from casewise.models.backbones import build_network

    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 48), np.uint8)).save(path)
    store, maps = prepare(paths, Preparation(size=64), tmp_path / "tiles"), EarlyMaps(build_network("mobilenet_v2", 1))
    statistics = []
    for threads in (1, 2, 3):
        with on_threads(threads):
            measured = measure(store, range(3), maps).maps
        assert measured is not None
        assert measured.shape == (3, 112)
        statistics.append(measured)
    assert np.array_equal(statistics[0], statistics[1])
    assert np.array_equal(statistics[0], statistics[2])


def batch_of(random: Any, subjects: int, **shifts: float) -> pd.DataFrame:
    """One to three images of each subject, more alike than those of others, and numbers that may be shifted."""
    names = np.repeat(np.arange(subjects), random.integers(1, 4, subjects))
    numbers = {name: random.normal(0, 1, subjects)[names] + random.normal(0, 0.5, len(names)) for name in NAMES}
    numbers = {name: values + shifts.get(name, 0.0) for name, values in numbers.items()}
    return pd.DataFrame({"case": names.astype(str), "subject": names.astype(str)} | numbers)


def test_batches_of_the_training_source_are_rarely_warned_of() -> None:
    random, warned = np.random.default_rng(0), []
    for _ in range(200):
        known = batch_of(random, 60)
        quantiles = {name: quantiles_of(known[name].to_numpy(), known["subject"]) for name in NAMES}
        warned.append(bool(drift([batch_of(random, 30)], quantiles, 60).text))
    assert np.mean(warned) <= 0.05
    shifted = drift([batch_of(random, 30, size=2.0)], quantiles, 60)
    assert "larger" in shifted.text
    assert set(shifted.differences) == {"size"}
    assert drift([batch_of(random, 3000, size=0.2)], quantiles, 60).text == ""
    assert not drift([batch_of(random, 9, size=2.0)], quantiles, 60).tested


def test_new_cases_of_another_source_are_told_in_the_record(tmp_path: Path, baseline_run: Run) -> None:
    cohort, model = baseline_run.files.cohort.read(), load_bundle(baseline_run.folder / "bundle")
    for name, change in (("own", lambda film: film), ("other", lambda film: film // 3 + 80)):
        (tmp_path / name).mkdir()
        for number, path in enumerate(cohort["path"].drop_duplicates()[:24]):
            film = np.asarray(Image.open(path).convert("L"))
            Image.fromarray(change(film)).save(tmp_path / name / f"{number}.png")
        written = predict_to_file(model, tmp_path / name, tmp_path / f"{name}.csv")
        record = json.loads((tmp_path / f"{name}.csv.json").read_text())["drift"]
        assert (record["tested"], record["subjects"], record["text"]) == (True, 24, written.drift.text)
        assert ("less contrast" in record["text"]) == (name == "other")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, baseline_run: Run) -> Path:
    """A held-out film, and the same upside down, as a negative and in colour; and a black image."""
    folder = tmp_path_factory.mktemp("images")
    test = set(baseline_run.rows.loc[baseline_run.rows["stage"] == "test", "subject"])
    cohort = baseline_run.files.cohort.read()
    path = cohort.loc[cohort["subject"].astype(str).isin(test), "path"].iloc[0]
    film = np.asarray(Image.open(path).convert("L"))
    coloured = np.stack([film, film // 2, film // 4], axis=2)
    pictures = {"film": film, "turned": film[::-1, ::-1], "negative": 255 - film, "black": 0 * film, "colour": coloured}
    for name, pixels in pictures.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
    return folder


def test_a_bundle_flags_and_predicts(images: Path, tmp_path: Path, baseline_run: Run) -> None:
    for model in (load_bundle(baseline_run.folder / "bundle"), load_bundle(baseline_run.folder)):
        table = model.predict(images, learner="headline").set_index("subject")
        reasons = table["flags"]
        assert reasons["film.png"] == ""
        assert "upside down" in reasons["turned.png"]
        assert "negative" in reasons["negative.png"]
        assert "nearly uniform" in reasons["black.png"]
        assert "in colour" in reasons["colour.png"]
        assert (table["problem"] == "").all()
        assert table["prediction"].notna().all()
        assert model.table.columns.index("flags") == model.table.columns.index("problem") - 1
    predict_to_file(model, images, tmp_path / "with.parquet")
    assert pd.read_parquet(tmp_path / "with.parquet")["flags"].tolist() == reasons.tolist()


def test_abstaining_without_limits_is_refused(baseline_run: Run) -> None:
    model = load_bundle(baseline_run.folder / "bundle")
    with pytest.raises(RunError, match=r"--abstain: .* has no limits of images"):
        replace(model, limits=None).predict(pd.DataFrame(), abstain=True)


def test_abstaining_leaves_out_flagged_cases(images: Path, tmp_path: Path, baseline_run: Run) -> None:
    bundle, output = baseline_run.folder / "bundle", tmp_path / "new.csv"
    finished = casewise("predict", str(bundle), str(images), "--output", str(output), "--abstain")
    assert finished.returncode == 0
    table = pd.read_csv(output).set_index("subject")
    assert table.loc["film.png", "prediction"]
    assert pd.isna(table.loc["film.png", "problem"])
    flagged = table.drop("film.png")
    assert flagged[["prediction", "spread", *[c for c in table if c.startswith("probability")]]].isna().all(axis=None)
    assert all(flags in problem for flags, problem in zip(flagged["flags"], flagged["problem"], strict=True))
    assert finished.stderr.count("4 of 5 images") == 1
    plain = casewise("predict", str(bundle), str(images), "--output", str(tmp_path / "plain.csv"))
    assert "4 of 5 images have flags: they are unlike the training cases" in plain.stderr.replace("\n", " ")
    assert "no prediction" not in plain.stderr


def test_an_image_of_a_person_costs_no_other_one_a_prediction(images: Path, baseline_run: Run) -> None:
    names = ["film.png", "negative.png", "none.png"]
    # a name without its ending is completed where one file has it
    frame = pd.DataFrame({"path": ["film", *names[1:]], "subject": "A"})
    table = load_bundle(baseline_run.folder / "bundle").predict(frame, root=images, abstain=True)
    rows = table.assign(image=table["image"].map(lambda path: Path(path).name)).set_index("image")
    assert rows.index.tolist() == names
    assert rows["prediction"].notna().tolist() == [True, False, False]
    assert rows["flags"].eq("").tolist() == [True, False, True]
    assert "there is no file" in rows.loc["none.png", "problem"]


def test_limits_depend_on_training_images_alone(baseline_run: Run) -> None:
    record, sides = baseline_run.files.input_checks.read(), baseline_run.files.splits.read()["subjects"]
    assert record["subjects"] == sum(side != "test" for side in sides.values()) < len(sides)
