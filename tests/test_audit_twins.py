"""Twins: copies that anybody could make are found, pictures that only look alike are not; what is said of them."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.audit import keypoints
from casewise.audit import twins as twins_module
from casewise.audit.hashes import NEGATIVE, Hashes, candidates, close_pairs, flip, grey, hash_signs
from casewise.audit.twin_findings import twin_findings
from casewise.audit.twins import ALIKE, ALIKE_SMALL, CLEAR, COPY, DOUBTFUL, STRAIGHT, Twin, find_twins
from casewise.audit.verify import LARGE, Register, SecondCheck, likeness, second_check, texture_likeness
from casewise.modalities.store.pixels import fit
from casewise.modalities.store.preparation import Fit, Preparation
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.study.schema import Study

SIZE = 128
STRAIGHT_ON = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def film(number: int, height: int = 200, width: int = 180) -> np.ndarray:
    """A made-up film: the same dark lungs in a bright frame for all, and detail of its own."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.45) / 0.28) ** 4) - ((y / 0.75) ** 4))
    picture = 190 - 110 * lungs - 150 * (np.abs(x) > 0.93)
    for radius, strength in ((2, 10.0), (6, 16.0), (16, 14.0)):
        noise = cv2.GaussianBlur(random.standard_normal((height, width)), (0, 0), radius)
        picture += strength * noise / noise.std()
    return np.clip(picture, 0, 255).astype(np.uint8)


def limb(number: int, side: int = LARGE, width: float = 1.0) -> np.ndarray:
    """A made-up photograph: for all the same limb before the same cloth, with grain, and skin of its own."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = np.abs(x - 0.2 * y**2) < width * (0.35 + 0.1 * np.cos(2 * y))
    skin = cv2.GaussianBlur(random.standard_normal((side, side)), (0, 0), side / 120)
    picture = np.where(inside, 170 - 90 * (x - 0.2 * y**2) ** 2 + 5 * skin / skin.std(), 90.0)
    return np.clip(picture + random.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def resized(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    height, width = (round(side * random.uniform(0.5, 0.9)) for side in picture.shape)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def recompressed(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(random.integers(30, 80)))
    return np.asarray(Image.open(file))


def cropped(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    height, width = picture.shape
    top, bottom, left, right = random.uniform(0.02, 0.06, 4)
    return picture[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def brightened(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    changed = (picture - 128.0) * random.uniform(0.7, 1.3) + 128 + random.uniform(-30, 30)
    return np.clip(changed, 0, 255).astype(np.uint8)


ALTERED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "resized": resized,
    "recompressed": recompressed,
    "cropped": cropped,
    "brightened": brightened,
    "left-right": lambda picture, random: picture[:, ::-1],
    "up-down": lambda picture, random: picture[::-1],
    "all": lambda picture, random: recompressed(brightened(cropped(picture, random), random), random)[:, ::-1],
}


def store_of(pictures: list[np.ndarray], *, fit_as: Fit = "pad", files: list[str] | None = None) -> TileStore:
    """A store in memory, as `prepare` would make it of these pictures."""
    rows = []
    for picture in pictures:
        deep = picture[..., None] if picture.ndim == 2 else picture
        rows.append(fit(deep, Preparation(SIZE, fit_as)))
    tiles = np.stack(rows).transpose(0, 3, 1, 2)
    index = pd.DataFrame(
        {
            "sha256": files or [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures],
            "width": [picture.shape[1] for picture in pictures],
            "height": [picture.shape[0] for picture in pictures],
            "tile_sha256": [hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles],
        }
    )
    channels = "grey" if tiles.shape[1] == 1 else "rgb"
    preparation = Preparation(size=SIZE, fit=fit_as, channels=channels)
    return TileStore(np.ascontiguousarray(tiles), index, "", preparation, Path())  # type: ignore[arg-type]


def table(subjects: list[str], **targets: list) -> pd.DataFrame:
    """What a cohort's `images` holds of these subjects."""
    return pd.DataFrame({"path": [f"/x/{n}.png" for n in range(len(subjects))], "subject": subjects, **targets})


def strangers(number: int) -> pd.DataFrame:
    return table([f"s{row}" for row in range(number)])


def test_orientations_and_negatives_have_the_same_hash():
    squares = np.random.default_rng(0).uniform(0, 255, (8, 32, 32))
    far = np.full((16, 2), 0x5555555555555555, np.uint64)
    for number in range(2 * NEGATIVE):
        both = np.concatenate([squares, flip(squares, number)])
        found = close_pairs(
            Hashes(hash_signs(both), far, np.zeros(16, bool), hash_signs(both.swapaxes(1, 2))), np.arange(16)
        )
        exact = [pair for pair in zip(found.i, found.j, found.flip, strict=True) if {*pair[:2]} == {0, 8}]
        assert len(exact) == 1
        i, j, oriented = exact[0]
        assert (flip(both[i], oriented) == both[j]).all()


def test_black_around_a_picture_goes_and_black_in_it_stays():
    picture = np.full((100, 60), 200, np.uint8)
    picture[:, :20] = 0
    square = grey(store_of([picture]), 0, 60)
    assert (square[:, 2:18] < 5).all()
    assert (square[:, 22:] > 190).all()


@pytest.mark.parametrize("fit_as", ["pad", "stretch"])
def test_altered_copies_are_found_and_different_films_are_not(fit_as: Fit):
    random, pictures = np.random.default_rng(5), [film(number, 200, 150 + number % 3 * 30) for number in range(21)]
    kinds, sources = [""] * len(pictures), list(range(len(pictures)))
    for place, (kind, alter) in enumerate(ALTERED.items()):
        for source in range(place * 3, place * 3 + 2):
            pictures.append(np.ascontiguousarray(alter(pictures[source], random)))
            kinds.append(kind)
            sources.append(source)
    store = store_of(pictures, fit_as=fit_as)
    found = {(twin.i, twin.j): twin for twin in find_twins(store, strangers(len(pictures)))}
    assert not [pair for pair in found if sources[pair[0]] != sources[pair[1]]]
    for kind in ALTERED:
        rows = [row for row in range(len(pictures)) if kinds[row] == kind]
        hits = [found[sources[row], row] for row in rows if (sources[row], row) in found]
        assert len(hits) == len(rows), kind
        mirrored = {"left-right": "left-right", "up-down": "up-down", "all": "left-right"}.get(kind, "none")
        assert ({hit.flip for hit in hits}, {hit.kind for hit in hits}) == ({mirrored}, {"near"})


def test_the_same_file_and_the_same_pixels_are_told_apart():
    pictures = [film(0), film(1), film(0), film(1)]
    found = find_twins(store_of(pictures, files=["a", "b", "a", "c"]), strangers(4))
    assert [(twin.i, twin.j, twin.kind) for twin in found] == [(0, 2, "bytes"), (1, 3, "pixels")]


def test_empty_images_are_no_twins():
    empty = [np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint8), np.full((50, 50), 9, np.uint8)]
    assert find_twins(store_of([*empty, film(0)]), strangers(4)) == []


def test_of_many_identical_images_each_is_paired_with_the_first():
    found = find_twins(store_of([film(0)] * 40), strangers(40))
    assert [(twin.i, twin.j) for twin in found] == [(0, row) for row in range(1, 40)]


def seen(texture: float, pixels: int = 320, blurred: bool = False, turn: float = 0.0) -> SecondCheck:
    return SecondCheck(Register(texture, 1.0, np.array([[1, turn, 0], [-turn, 1, 0]], np.float32)), pixels, blurred)


@pytest.mark.parametrize(
    ("look", "cosine", "flipped", "subjects", "twin"),
    [
        (seen(ALIKE + 0.01), None, False, ["a", "b"], True),
        (seen(ALIKE + 0.01), 0.1, False, ["a", "b"], True),
        (seen(ALIKE - 0.01), 1.0, False, ["a", "b"], False),
        (seen(ALIKE - 0.01, pixels=300), None, False, ["a", "b"], True),
        (seen(ALIKE_SMALL + 0.01, pixels=96), None, False, ["a", "b"], True),
        (seen(ALIKE_SMALL - 0.01, pixels=96), 1.0, False, ["a", "b"], False),
        (seen(CLEAR + 0.01, blurred=True), None, False, ["a", "b"], True),
        (seen(CLEAR - 0.01, blurred=True), None, False, ["a", "b"], False),
        (seen(CLEAR - 0.01, blurred=True), 0.95, False, ["a", "b"], True),
        (seen(CLEAR - 0.01, blurred=True), 0.80, False, ["a", "b"], False),
        (seen(CLEAR - 0.01, blurred=True), 0.95, True, ["a", "b"], False),
        (seen(DOUBTFUL - 0.01, blurred=True), 1.0, False, ["a", "b"], False),
        (seen(COPY - 0.01), 1.0, False, ["a", "a"], False),
        (seen(COPY + 0.01), None, False, ["a", "a"], True),
        (seen(COPY + 0.01, turn=2 * STRAIGHT), None, False, ["a", "a"], False),
        (seen(COPY + 0.01, turn=2 * STRAIGHT), None, False, ["a", "b"], True),
        (SecondCheck(None, 320, False), 1.0, False, ["a", "b"], False),
    ],
)
def test_who_decides_what_a_twin_is(
    monkeypatch: pytest.MonkeyPatch,
    look: SecondCheck,
    cosine: float | None,
    flipped: bool,
    subjects: list[str],
    twin: bool,
):
    monkeypatch.setattr(twins_module, "second_check", lambda *given, **more: iter([look]))
    monkeypatch.setattr(twins_module, "local_pairs", lambda *given, **more: [])
    asked: list[list[int]] = []

    def embed(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return np.array([[1.0, 0.0], [cosine, (1 - (cosine or 0) ** 2) ** 0.5]], np.float32)

    store = store_of([film(0), brightened(film(0), np.random.default_rng(0))[:: -1 if flipped else 1]])
    found = find_twins(store, table(subjects), embed=None if cosine is None else embed)
    assert len(found) == twin
    assert asked in ([], [[0, 1]])
    assert all(one.cosine == (None if cosine is None else pytest.approx(cosine, abs=1e-4)) for one in found)
    assert all(one.blurred == look.blurred for one in found)


@pytest.mark.parametrize("number", range(3))
def test_one_outline_does_not_make_two_limbs_one(number: int):
    one, two = limb(number), limb(number + 10)
    small = [cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32) for picture in (one, two)]
    tiles = likeness(*small)
    assert tiles.likeness > 0.4
    other = texture_likeness(one.astype(np.float32), two.astype(np.float32), tiles.warp)
    assert other.likeness < 0.2
    copy = recompressed(brightened(one, np.random.default_rng(number)), np.random.default_rng(0))
    same = texture_likeness(one.astype(np.float32), copy.astype(np.float32), tiles.warp)
    assert same.likeness > 0.6


def written(pictures: list[np.ndarray], folder: Path, **targets: list) -> tuple[TileStore, pd.DataFrame]:
    """The pictures as files, the store of their tiles of 64 pixels, and their table."""
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    store = prepare(paths, Preparation(size=64, channels="grey"), folder / "tiles")
    return store, strangers(len(pictures)).assign(path=[str(path) for path in paths])


def test_files_are_looked_at_and_tiles_only_where_they_are_gone(tmp_path: Path):
    random, pictures = np.random.default_rng(0), [limb(number, width=1 + 0.02 * number) for number in range(6)]
    store, images = written([*pictures, recompressed(pictures[2], random), cropped(pictures[3], random)], tmp_path)
    found = find_twins(store, images)
    assert [(twin.i, twin.j, twin.blurred) for twin in found] == [(2, 6, False), (3, 7, False)]
    pairs = candidates(*(np.array([value]) for value in (2, 6, 0, 0, False)))
    register = Register(1.0, 1.0, STRAIGHT_ON)
    (there,) = second_check(store, images["path"].tolist(), pairs, [register])
    assert (there.blurred, there.pixels) == (False, LARGE)
    (tmp_path / "6.png").unlink()
    (gone,) = second_check(store, images["path"].tolist(), pairs, [register])
    assert (gone.blurred, gone.pixels) == (True, LARGE)


def test_subjects_photographed_in_one_pose_are_no_twins(phantom: Path, tmp_path: Path):
    store, images = phantom_store(phantom, tmp_path / "tiles", 32, every=3)
    assert images["subject"].value_counts().tolist() == [8] * 8
    assert find_twins(store, images) == []


def phantom_store(cohort: Path, folder: Path, size: int, every: int = 1) -> tuple[TileStore, pd.DataFrame]:
    images = pd.read_csv(cohort, keep_default_na=False).iloc[::every].reset_index(drop=True)
    paths = [cohort.parent / path for path in images["path"]]
    return prepare(paths, Preparation(size=size), folder), images.assign(path=[str(path) for path in paths])


def tilted(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    height, width = picture.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.choice((-1, 1)) * random.uniform(8, 12), 1)
    return cv2.warpAffine(picture, turn, (width, height))


CHANGED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "turned": lambda picture, random: np.rot90(picture, int(random.integers(1, 4))),
    "negative": lambda picture, random: 255 - picture,
    "tilted": tilted,
    "zoomed": lambda picture, random: picture[25:175, 20:140],
    "off-centre": lambda picture, random: picture[: round(200 * 0.82), round(160 * 0.18) :],
    "framed": lambda picture, random: np.pad(picture, ((9, 15), (12, 6)), constant_values=255),
    "mirrored": lambda picture, random: picture[20:190, 8:144][:, ::-1],
    "mirrored and tilted": lambda picture, random: tilted(picture[:, ::-1], random),
}


def test_turned_cropped_framed_and_negative_copies_are_found_and_the_map_leads_to_them(tmp_path: Path):
    random, count = np.random.default_rng(3), 4 * len(CHANGED)
    pictures = [film(number, 200, 160) for number in range(count)]
    kinds = [kind for kind in CHANGED for _ in range(4)]
    pictures += [np.ascontiguousarray(CHANGED[kind](pictures[n], random)) for n, kind in enumerate(kinds)]
    store, images = written(pictures, tmp_path)
    found = {(twin.i, twin.j): twin for twin in find_twins(store, images)}
    assert all(j == i + count for i, j in found)
    for kind in CHANGED:
        hits = [found[n, n + count] for n in range(count) if kinds[n] == kind and (n, n + count) in found]
        assert len(hits) >= 3, kind
        assert {hit.negative for hit in hits} == {kind == "negative"}
        assert {7 < abs(hit.angle) < 13 for hit in hits if hit.flip == "none"} <= {kind == "tilted"}
    for (i, j), twin in found.items():
        first, second = (cv2.resize(pictures[row].astype(np.float32), (128, 128)) for row in (i, j))
        grid = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(second, np.array(twin.warp), (128, 128), flags=grid, borderValue=-1)
        inside = warped >= 0
        assert abs(np.corrcoef(first[inside], warped[inside])[0, 1]) > 0.75


def test_a_deep_crop_is_found_whatever_other_images_there_are(tmp_path: Path):
    random, pictures = np.random.default_rng(1), [film(1000 + number, 200, 160) for number in range(40)]
    corners = [(int(random.integers(0, 84)), int(random.integers(0, 67))) for _ in range(8)]
    crops = [picture[y : y + 116, x : x + 93] for picture, (y, x) in zip(pictures, corners, strict=False)]
    store, images = written([*pictures[:8], *crops, *pictures[8:]], tmp_path)
    # 58 % of each side, alone and among other films
    for among in (16, len(images)):
        few = TileStore(store.tiles[:among], store.index[:among], "", store.preparation, Path())
        found, through_index = (
            {(twin.i, twin.j) for twin in find_twins(few, images[:among], exact=exact)} for exact in (among, 0)
        )
        assert found == {(number, number + 8) for number in range(8)}
        assert through_index <= found
        assert len(through_index) >= 7


def test_neighbouring_fields_of_one_slide_are_no_twins(tmp_path: Path):
    slide = film(5, 400, 400)
    store, images = written([slide[:220, :220], slide[:220, 90:310], slide[90:310, 180:400]], tmp_path)
    assert find_twins(store, images.assign(subject="one")) == []


def test_turned_copies_of_one_subject_are_found_and_later_pictures_are_not(tmp_path: Path):
    def cut(picture: np.ndarray, turn: float) -> np.ndarray:
        height, width = picture.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1)
        turned = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC)
        return turned[round(0.05 * height) : round(0.95 * height), round(0.05 * width) : round(0.95 * width)]

    first = [film(number) for number in range(4)]
    copies = [cut(picture, turn) for picture, turn in zip(first, (2, 4, -4, 6), strict=True)]
    # the same outline with half of its detail renewed, turned as well
    later = [cut(np.uint8((picture.astype(int) + film(number + 50)) // 2), 3) for number, picture in enumerate(first)]
    store, images = written([*first, *copies, *later], tmp_path)
    found = find_twins(store, images.assign(subject=[f"s{row % 4}" for row in range(12)]))
    assert [(twin.i, twin.j) for twin in found] == [(row, row + 4) for row in range(4)]
    assert [round(abs(twin.angle)) for twin in found] == [2, 4, 4, 6]


def study_of(**values: Any) -> Study:
    return Study.model_validate({"name": "t", "cohort": "/data/films/t.csv", "backbones": ["resnet18"], **values})


def test_findings_say_where_twins_do_harm():
    twins = [Twin(0, 1, "near", 5, 0.9, "left-right"), Twin(2, 3, "bytes"), Twin(3, 4, "pixels")]
    twins.append(Twin(5, 6, "near", blurred=True))
    images = table(["a", "b", "c", "c", "d", "e", "f"], label=[1.0, 0.0, 1.0, 1.0, 1.0, float("nan"), 0.0])
    study = study_of(targets={"label": {"classes": ["x", "y"]}})
    found = {f.id: f for f in twin_findings(twins, images, study, {"a": 0, "b": 1, "c": 0, "d": 0})}
    wheres = ("across-subjects", "across-splits", "across-labels", "within-subject")
    assert list(found) == [f"twins-{where}" for where in wheres]
    across, separated = found["twins-across-subjects"], found["twins-across-splits"]
    assert (across.level, separated.level, separated.pairs) == ("error", "error", [("/x/0.png", "/x/1.png")])
    assert separated.figures["mirrored"] == 1
    counts = {"pairs": 2, "images": 4, "subjects": 4, "bytes": 0, "pixels": 1, "near": 1, "mirrored": 0}
    assert {key: across.figures[key] for key in counts} == counts
    # The surest pair comes first.
    assert across.pairs[0] == ("/x/3.png", "/x/4.png")
    assert "3.png (c) and 4.png (d)" in across.sentence
    assert "the same picture under two subjects" in across.sentence
    alone = study.model_copy(update={"subjects_known": False})
    unknown = {f.id: f for f in twin_findings(twins, images, alone, {"a": 0, "b": 1, "c": 0, "d": 0})}
    assert "the same picture in two files" in unknown["twins-across-subjects"].sentence
    assert "subject" in across.remedy
    divided = study.model_copy(update={"split": study.split.model_copy(update={"column": "part"})})
    sided = twin_findings(twins, images.assign(part=list("1121222")), divided)
    expected = [("/x/2.png", "/x/3.png"), ("/x/3.png", "/x/4.png")]
    assert [f.pairs for f in sided if f.id == "twins-across-splits"] == [expected]
    labels = found["twins-across-labels"]
    assert (labels.level, labels.pairs) == ("warning", [("/x/0.png", "/x/1.png")])
    assert "0.png (a, y) and 1.png (b, x)" in labels.sentence
    within = found["twins-within-subject"]
    assert (within.level, within.pairs) == ("note", [("/x/2.png", "/x/3.png")])
    assert (within.figures["pairs"], within.figures["bytes"]) == (1, 1)


def test_alike_photographs_of_two_visits_may_have_two_values():
    study = study_of(targets={"label": {"classes": ["x", "y"]}})
    images = table(["a", "a"], label=[0.0, 1.0])
    for kind, visits, named in (("near", "12", False), ("near", "11", True), ("pixels", "12", True)):
        found = twin_findings([Twin(0, 1, kind)], images.assign(visit=list(visits)), study)
        assert ("twins-across-labels" in {finding.id for finding in found}) is named


def test_the_search_among_many_images_is_said_to_be_limited():
    study = study_of(targets={"label": {"classes": ["x", "y"]}})
    images = table(["a"] * 5_001, label=[1.0] * 5_001)
    assert [(f.id, f.level) for f in twin_findings([], images, study)] == [("twins-limited", "note")]
    assert twin_findings([], images[1:], study) == []


def test_identical_images_with_two_labels_are_an_error_and_remedies_write_paths_as_the_table():
    images = table(["a", "b", "b"], score=[1.0, 2.0, 3.5])
    images["path"] = [f"/data/films/{name}" for name in ("one.png", "deep/two.png", "three 3.png")]
    study = study_of(targets={"score": {"range": (0, 4)}}, columns={"path": "file"})
    found = {f.id: f for f in twin_findings([Twin(0, 1, "bytes"), Twin(1, 2, "near")], images, study)}
    assert found["twins-across-labels"].level == "error"
    assert "one.png (a, 1) and two.png (b, 2)" in found["twins-across-labels"].sentence
    every = '`where_not: {file: [deep/two.png, one.png, "three 3.png"]}`'
    assert {every in found[f"twins-across-{of}"].remedy for of in ("subjects", "labels")} == {True}
    assert "with what the errors leave out: one list for all" in found["twins-across-subjects"].remedy
    assert every in found["twins-within-subject"].remedy
    left_out = study.model_copy(update={"where_not": {"file": ["four.png"]}})
    found = {f.id: f for f in twin_findings([Twin(1, 2, "near")], images, left_out)}
    assert (
        '`where_not: {file: [four.png, "three 3.png"]}` (with what the study leaves out: one list for all)'
        in found["twins-within-subject"].remedy
    )
    accepting = study.model_copy(update={"accept": {"twins-across-subjects": "twins", "twins-across-labels": "doubt"}})
    found = {f.id: f for f in twin_findings([Twin(0, 1, "bytes"), Twin(1, 2, "near")], images, accepting)}
    assert '`where_not: {file: ["three 3.png"]}`.' in found["twins-within-subject"].remedy


def test_a_feature_votes_for_the_most_similar_ones_alone():
    similarity = np.array([[0.92, 0.88, 0.94, 0.5], [0.1, 0.2, 0.9, 0.86], [0.0, 0.1, 0.9, 0.2]])
    votes = keypoints._votes(similarity, replace(keypoints._QUICK, most=2))
    assert votes.tolist() == [[True, False, True, False], [False, False, True, True], [False, False, True, False]]
    assert keypoints._votes(similarity, keypoints._QUICK)[0].tolist() == [True, True, True, False]


def test_features_that_are_nearly_the_same_take_no_votes_from_others():
    frames = np.array([[0.99, 0.98, 0.97, 0.96, 0.9, 0.88, 0.86]])
    votes = keypoints._votes(frames, replace(keypoints._QUICK, most=2))
    assert votes.tolist() == [[True, True, True, True, True, True, False]]


@pytest.mark.parametrize("divided", [False, True])
def test_votes_of_features_are_counted_alike_however_images_are_divided(
    divided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(40, 12, 32))
    copied = own[rng.integers(0, 40, 60)] + rng.normal(scale=0.1, size=(60, 12, 32))
    unit = np.concatenate([own, copied])
    unit = (unit / np.linalg.norm(unit, axis=2, keepdims=True)).astype(np.float16)
    place = np.zeros((12, 2), np.float32)
    features = [keypoints._LocalFeatures(each, each, place, (10, 10)) for each in unit]
    monkeypatch.setattr(keypoints, "FEATURES_PER_WORD", 100)
    words = keypoints._vocabulary(list(unit), divided=divided)
    indexed, group = keypoints._by_word(features, words), np.arange(100) % 70
    excluded, effort = {(3, 41), (4, 50)}, keypoints._QUICK
    # one by one: the features of an image that another one has in the same word, once each
    word = words.words([item.descriptors for item in features]).reshape(100, 12)
    expected = set()
    for i in range(100):
        alike = np.einsum("fd,jgd->jfg", unit[i].astype(np.float32), unit.astype(np.float32)) > keypoints.VOTE
        votes = (alike & (word[i][None, :, None] == word[:, None, :])).any(axis=2).sum(axis=1)
        others = [j for j in range(100) if group[j] != group[i] and not {(i, j), (j, i)} & excluded]
        voted = sorted((j for j in others if votes[j] >= effort.votes), key=lambda j, votes=votes: (-votes[j], j))
        expected |= {(min(i, j), max(i, j)) for j in voted[: effort.nearest]}
    assert len(expected) > 20
    for rows, votes, compared in ((512, 2**24, 2**25), (30, 2**24, 2**25), (512, 50, 2**25), (512, 2**24, 1_000)):
        monkeypatch.setattr(keypoints, "FEWEST_ROWS", rows)
        monkeypatch.setattr(keypoints, "MOST_VOTES", votes)
        monkeypatch.setattr(keypoints, "MOST_COMPARED", compared)
        assert keypoints._nearest(features, words, indexed, excluded, group, effort) == sorted(expected)
