"""How often cases of another source are flagged one by one, and warned of as a batch, and how often own cases are.

    python benchmarks/sources.py DATA [--images runs/sources] [--output docs/results/other-sources.md]

DATA is the folder of the packs; CASEWISE_WEIGHTS is that of the weights of MobileNetV2. The head of the page follows.

# Cases of another source

A model is trained on one source and gets cases of another one. How often are they [flagged](../howto-predict.md#flags),
one by one and as a batch, and how often are new cases of the training source? In four rounds a quarter of the subjects
is held out, and limits are fitted on the others as in a run; no label is read. A batch has one image of each subject;
in each round 50 are drawn, which overlap. In brackets 95 % intervals by subject.

The statistics and the distance were chosen on films nih with films cohen, and on oral with gastric histology; the other
directions are a test. Films of severity are of the sources of films cohen. Altered films show other checks.

Where the training cases differ much among themselves, single cases of another source are hardly flagged: films cohen
are from publications of many hospitals, and films nih lie within what they show. As a batch, they differ. By `python
benchmarks/sources.py DATA --output docs/results/other-sources.md`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pages import parser_of, publish, table

from casewise.cohort.cohort import read_cohort
from casewise.console import Terminal
from casewise.inference import input_checks as checks
from casewise.inference.drift import drift
from casewise.inference.look import EarlyMaps
from casewise.modalities.base import ImageFolder
from casewise.modalities.registry import modality_of
from casewise.study.loading import build_study

ROUNDS, FOLDS, MOST, BATCHES, SIZES = 4, 5, 1000, 50, (20, 50)
FILMS, SLICES = {"duplicate_of": ""}, {"sequence": "flair", "slice_order": "3"}
GROUPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "films nih": ("covid-cxr", "grey", FILMS | {"source": "nih"}),
    "films cohen": ("covid-cxr", "grey", FILMS | {"source": "cohen"}),
    "films severity": ("severity-covid", "grey", FILMS),
    "MRI, site DU": ("mri-lgg", "grey", SLICES | {"site": "DU"}),
    "MRI, site HT": ("mri-lgg", "grey", SLICES | {"site": "HT"}),
    "oral histology": ("histology-oral", "rgb", {}),
    "gastric histology": ("histology-hpylori", "rgb", {}),
}
DIRECTIONS = {"films nih": ["films cohen", "films severity", "MRI, site DU"], "oral histology": ["gastric histology"]}
DIRECTIONS |= {"films cohen": ["films nih", "MRI, site DU"], "gastric histology": ["oral histology"]}
DIRECTIONS |= {"MRI, site DU": ["MRI, site HT", "films cohen"]}


@cache
def read(name: str, data: Path, folder: Path) -> tuple[pd.DataFrame, checks.Measures, EarlyMaps | None]:
    """At most `MOST` images of a group, their measures, and the network by which they were measured."""
    pack, channels, where = GROUPS[name]
    values: dict[str, Any] = {"name": "sources", "cohort": f"{pack}/cases.csv", "columns": {"visit": "", "date": ""}}
    values |= {"where": where, "images": {"channels": channels, "size": 224, "fit": "pad"}, "panels": {"by": "image"}}
    study = build_study(values | {"targets": {"label": ["a", "b"]}}, source="sources", folder=data)
    modality, files, show = modality_of(study), ImageFolder(folder / name), Terminal()
    cohort = modality.read(study, read_cohort(study, to_learn=False, labelled=False), files, show)
    store, maps = modality.prepare(study, cohort, files, show), EarlyMaps.of_study(study)
    images = cohort.images.assign(row=range(len(store))).sample(frac=1, random_state=0).head(MOST)
    return images[["case", "subject"]].astype(str), checks.measure(store, images["row"].tolist(), maps), maps


def share(flagged: pd.DataFrame) -> str:
    """The share of flagged images, with the interval of 1,000 resamples of subjects."""
    sums, rng = flagged.groupby("subject")["flag"].agg(["sum", "size"]).to_numpy(float), np.random.default_rng(0)
    drawn = [sums[rng.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(1000)]
    low, high = np.quantile([flags / size for flags, size in drawn], [0.025, 0.975])
    return f"{flagged['flag'].mean():.1%} ({low:.1%} to {high:.1%})"


def rows_of(own: str, data: Path, folder: Path) -> list[list[str]]:
    """The rows of the page for the training on one group."""
    (images, measures, maps), rng, tables = read(own, data, folder), np.random.default_rng(0), []
    number = images["subject"].map({name: n for n, name in enumerate(rng.permutation(images["subject"].unique()))})
    for held_out in [(number % ROUNDS == turn).to_numpy() for turn in range(ROUNDS)]:
        cases, subjects = images[~held_out].to_numpy().T
        folds = (number // ROUNDS % FOLDS).to_numpy()[~held_out]
        training = checks.Training(measures.subset(~held_out), cases, subjects, folds, np.full(len(cases), ""))
        look, limits = checks.fit_look(checks.fit_limits(training), training, maps, []) or (None, None)
        assert look and limits
        for group in (own, *DIRECTIONS[own]):
            new, measured, _ = read(group, data, folder)
            if group == own:
                new, measured = images[held_out], measures.subset(held_out)
            flags = [bool(texts) for texts in checks.image_flags(limits, measured, look=look)]
            new = new.reset_index(drop=True).assign(**checks.numbers_of_batch(measured, look), group=group, flag=flags)
            for size in SIZES:
                enough = BATCHES if new["subject"].nunique() >= size else 0
                drawn = [new.sample(frac=1, random_state=rng).drop_duplicates("subject") for _ in range(enough)]
                warned = [bool(drift([batch.head(size)], limits.quantiles, limits.subjects).text) for batch in drawn]
                new[f"warned {size}"] = np.mean(warned) if warned else np.nan
            tables.append(new)
    return [
        [own, "own, held out" if group == own else group, f"{rows['subject'].nunique():,}", share(rows)]
        + [f"{rows[f'warned {size}'].mean():.0%}".replace("nan%", "too few subjects") for size in SIZES]
        for group, rows in pd.concat(tables).groupby("group", sort=False)
    ]


def main() -> None:
    """Measure every direction and write the page."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=Path, default=Path("runs/sources"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    heads = ["training", "new cases", "subjects", "flagged", *[f"batches of {size} warned of" for size in SIZES]]
    rows = [row for own in DIRECTIONS for row in rows_of(own, options.data, options.images)]
    publish("#" + str(__doc__).partition("#")[2] + "\n" + "\n".join([*table(heads, rows), ""]), options.output)


if __name__ == "__main__":
    main()
