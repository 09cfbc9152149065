"""Planted shortcuts in real films: what the audit finds, and how often it warns where nothing is planted.

    python benchmarks/planted.py [--data ../shared/data] [--output docs/results/planted.md]

The head of the page follows.

# Planted shortcuts in real films

{films} films of {films} subjects of `covid-cxr` get one of two classes at random, {cohorts} times. In each of these
cohorts something is planted on 95 % of one class and 5 % of the other, and the audit tests it with {permutations}
permutations and without a pretrained network. Nothing else tells the classes apart, so that every warning on untouched
films is false. "Found" counts cohorts with a warning or an error, "error" cohorts with an error, and "by" names the
evidence that found it most often. Words are burnt in at any place of the film; letters are 5 % of its height (their
line of text), in white. Files of 128 pixels: the film is reduced to 128 pixels and then marked.

Level and interval: evidence of two classes with a known AUROC, {subjects} subjects, {draws} draws. An error should be
rare where the AUROC is 0.80, its limit, or less; by the figure alone it would be said in about half of the draws.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from copies import images_of
from pages import head_of, page_parser, publish, table

from casewise.audit.shortcuts import find_shortcuts
from casewise.cohort.cohort import read_cohort
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store_builder import prepare
from casewise.study.schema import Study

FILMS, COHORTS, UNTOUCHED, PERMUTATIONS = 200, 4, 40, 499
SUBJECTS, DRAWS = 120, 400
SHARE = 0.95
Random = np.random.Generator
Plant = Callable[[np.ndarray, bool, Random], np.ndarray]


def marked(picture: np.ndarray, text: str, random: Random, share: float = 0.05) -> np.ndarray:
    """The film with a white text at a random place; a line of it has this share of the height."""
    height, width = picture.shape
    scale, weight = share * height / 21, max(1, round(2 * share * height / 21))
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    across, down = int(random.integers(2, max(3, width - wide - 2))), int(random.integers(tall + 2, height - 4))
    place = (across, down)
    return cv2.putText(picture.copy(), text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 245, weight, cv2.LINE_AA)


def small(picture: np.ndarray) -> np.ndarray:
    """The film with a longest side of 128 pixels."""
    factor = 128 / max(picture.shape)
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def gamma(picture: np.ndarray) -> np.ndarray:
    """The film after a gamma of 0.85."""
    return np.rint(255 * (picture / 255.0) ** 0.85).astype(np.uint8)


# By name: the plant of a film, which is told whether the film is to carry it, and the side of the tiles.
PLANTS: dict[str, tuple[Plant, int]] = {
    "the word PORTABLE, anywhere": (lambda p, has, r: marked(p, "PORTABLE", r) if has else p, 224),
    "the word PORTABLE, anywhere, tiles of 128": (lambda p, has, r: marked(p, "PORTABLE", r) if has else p, 128),
    "a letter R, anywhere": (lambda p, has, r: marked(p, "R", r) if has else p, 224),
    "a letter R, anywhere, tiles of 128": (lambda p, has, r: marked(p, "R", r) if has else p, 128),
    "a letter R or L, anywhere": (lambda p, has, r: marked(p, "R" if has else "L", r), 224),
    "a letter R or L, anywhere, tiles of 128": (lambda p, has, r: marked(p, "R" if has else "L", r), 128),
    "a letter R, 8 %, files of 128": (lambda p, has, r: marked(small(p), "R", r, 0.08) if has else small(p), 128),
    "gamma 0.85": (lambda p, has, r: gamma(p) if has else p, 224),
}  # fmt: skip


def look(films: list[np.ndarray], classes: np.ndarray, folder: Path, size: int, permutations: int) -> dict[str, str]:
    """The level of each warning and error, by its code."""
    folder.mkdir()
    for number, film in enumerate(films):
        cv2.imwrite(str(folder / f"{number:03d}.png"), film)
    rows = {"path": [f"{n:03d}.png" for n in range(len(films))], "subject": [f"s{n}" for n in range(len(films))]}
    pd.DataFrame(rows | {"label": np.array(["a", "b"])[classes]}).to_csv(folder / "cohort.csv", index=False)
    study = Study.model_validate(
        {
            "name": "planted",
            "cohort": folder / "cohort.csv",
            "panels": {"by": "image"},
            "backbones": ["resnet18"],
            "targets": {"label": {"classes": ["a", "b"], "level": "image"}},
            "audit": {"permutations": permutations},
        }
    )
    cohort = read_cohort(study)
    paths = [Path(path) for path in cohort.images["path"]]
    tiles = prepare(paths, Preparation(size=size, channels="grey"), folder / "tiles")
    findings = find_shortcuts(study, cohort, tiles).findings
    return {finding.id: finding.level for finding in findings if finding.level != "note"}


def main() -> None:
    parser = page_parser(__doc__, data=True)
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--untouched", type=int, default=UNTOUCHED)
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args()
    films = [read_image(p, size=None, channels="grey")[..., 0] for p in images_of(options.data, "covid-cxr", FILMS)]

    def labels(seed: int) -> np.ndarray:
        return (np.random.default_rng([seed, 3]).permutation(len(films)) < len(films) // 2).astype(int)

    rows = []
    for name, (plant, size) in PLANTS.items():
        levels, by = Counter[str](), Counter[str]()
        for seed in range(options.cohorts):
            classes, random = labels(seed), np.random.default_rng([seed, 4])
            has = random.random(len(films)) < np.where(classes == 1, SHARE, 1 - SHARE)
            changed = [plant(film, bool(own), random) for film, own in zip(films, has, strict=True)]
            with tempfile.TemporaryDirectory() as temporary:
                found = look(changed, classes, Path(temporary) / "f", size, PERMUTATIONS)
            levels["found"] += bool(found)
            levels["error"] += "error" in found.values()
            by.update(code.removeprefix("shortcut-") for code in found)
        rows.append(
            [name, f"{levels['found']} of {options.cohorts}", levels["error"], by.most_common(1)[0][0] if by else "–"]
        )
        print(rows[-1], flush=True)
    false, errors = Counter[str](), 0
    for seed in range(options.untouched):
        with tempfile.TemporaryDirectory() as temporary:
            found = look(films, labels(100 + seed), Path(temporary) / "f", 224, PERMUTATIONS)
        false.update([*found] or [""])
        errors += bool(found)
    rate = errors / max(options.untouched, 1)
    error = (rate * (1 - rate) / max(options.untouched, 1)) ** 0.5
    lines = table(["planted", "found", "error", "by"], rows)
    lines += [
        "",
        f"Untouched films: {errors} of {options.untouched} cohorts with a warning or an error ({rate:.1%}, Monte Carlo "
        f"error {error:.1%}); at most 1 % is meant.",
    ]
    lines += ["", *interval_table(options.draws)] if options.draws else []
    head = head_of(__doc__, films=FILMS, cohorts=options.cohorts, permutations=PERMUTATIONS, subjects=SUBJECTS,
                   draws=options.draws)  # fmt: skip
    publish("\n".join([head, *lines]) + "\n", options.output)


def interval_table(draws: int) -> list[str]:
    """How often evidence of a known AUROC is an error, by its figure and by its interval."""
    from scipy.stats import norm

    from casewise.audit.probes import Labels, probe, strength_interval

    rows = []
    for auroc in (0.75, 0.78, 0.80, 0.85, 0.90, 0.95):
        distance, by_figure, by_interval = norm.ppf(auroc) * 2**0.5, 0, 0
        for seed in range(draws):
            random = np.random.default_rng([seed, 5])
            classes = random.permutation(np.arange(SUBJECTS) % 2).astype(float)
            features = (random.normal(size=SUBJECTS) + distance * classes)[:, None]
            labels = Labels.of(classes, range(SUBJECTS), ["a", "b"], permutations=0, seed=seed)
            assert labels
            result = probe(features, labels, seed=seed)
            assert result
            by_figure += result.value >= 0.80
            by_interval += strength_interval(result, labels, seed=seed)[0] >= 0.80
        rows.append([f"{auroc:.2f}", f"{by_figure / draws:.1%}", f"{by_interval / draws:.1%}"])
    return table(["AUROC of the evidence", "error by the figure", "error by the interval"], rows)


if __name__ == "__main__":
    main()
