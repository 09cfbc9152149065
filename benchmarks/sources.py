"""How often cases of another source are flagged one by one, and warned of as a batch, and how often own cases are.

    python benchmarks/sources.py DATA [--output docs/results/other-sources.md]

DATA is the folder of the packs; CASEWISE_WEIGHTS is that of the weights of MobileNetV2. Images are prepared in
runs/sources. The head of the page follows.

# Cases of another source

A model is trained on one source and gets cases of another one. How often are they [flagged](../howto-predict.md#flags),
one by one and as a batch, and how often are new cases of the training source? In four rounds a quarter of the subjects
is held out, and limits are fitted on the others as in a run; no label is read. A case is an image. A batch has one
image of each subject; in each round 50 are drawn, which overlap. A service gets up to 150 cases one by one, in the
order of a batch, and [tests the recent ones](../howto-serve.md#another-source); stated are the services, 20 in each
round, that withheld confidence, and from which case on (median). In brackets 95 % intervals by subject.

The statistics and the distance were chosen on films nih with films cohen, and on oral with gastric histology; the other
directions are a test, but the number of directions in which batches are compared was chosen with all in view. Films of
severity are from the sources of films cohen. Where all cases are flagged, resampling cannot tell how sure that is.

Where the training cases differ much among themselves, single cases of another source are hardly flagged: films cohen
are from publications of many hospitals, and films nih lie within what they show. As a batch, they differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pages import head_of, page_parser, publish, table

from casewise.cohort.cohort import read_cohort
from casewise.console import Terminal
from casewise.inference import input_checks as checks
from casewise.inference.drift import Drift, RecentCases, drift
from casewise.inference.look import EarlyMaps
from casewise.modalities.base import ImageFolder
from casewise.modalities.registry import modality_of
from casewise.study.loading import build_study

ROUNDS, FOLDS, BATCHES, SIZES = 4, 5, 50, (20, 50)
SERVICES, CASES = 20, 150
# By name the pack, its channels, its rows, and the groups that a model of it gets.
GROUPS: dict[str, tuple[str, str, dict[str, str], list[str]]] = {
    "films nih": ("covid-cxr", "grey", {"duplicate_of": "", "source": "nih"}, ["films cohen", "films severity", "MRI"]),
    "films cohen": ("covid-cxr", "grey", {"duplicate_of": "", "source": "cohen"}, ["films nih", "MRI"]),
    "films severity": ("severity-covid", "grey", {"duplicate_of": ""}, []),
    "MRI": ("mri-lgg", "grey", {"sequence": "flair", "slice_order": "3"}, []),
    "oral histology": ("histology-oral", "rgb", {}, ["gastric histology"]),
    "gastric histology": ("histology-hpylori", "rgb", {}, ["oral histology"]),
}


def read(name: str, data: Path) -> tuple[pd.DataFrame, checks.Measures, EarlyMaps | None]:
    """The images of a group, their measures, and the network by which they were measured."""
    pack, channels, where, _ = GROUPS[name]
    source = {"name": name, "cohort": f"{pack}/cases.csv", "columns": {"visit": "", "date": ""}, "where": where}
    prepared = {"images": {"channels": channels, "size": 224, "fit": "pad"}, "panels": {"by": "image"}}
    study = build_study(source | prepared | {"targets": {"label": ["a", "b"]}}, source="sources", folder=data)
    cohort, files = read_cohort(study, to_learn=False, labelled=False), ImageFolder(Path("runs/sources") / name)
    store, maps = modality_of(study).prepare(study, cohort, files, Terminal()), EarlyMaps.of_study(study)
    images = cohort.images[["path", "subject"]].astype(str).set_axis(["case", "subject"], axis=1)
    return images, checks.measure(store, range(len(store)), maps), maps


def share(flagged: pd.DataFrame) -> str:
    """The share of flagged images, with the interval of 1,000 resamples of subjects."""
    sums, rng = flagged.groupby("subject")["flag"].agg(["sum", "size"]).to_numpy(float), np.random.default_rng(0)
    drawn = np.quantile([np.divide(*rng.choice(sums, len(sums)).sum(axis=0)) for _ in range(1000)], [0.025, 0.975])
    return f"{flagged['flag'].mean():.1%} ({drawn[0]:.1%} to {drawn[1]:.1%})"


def first_withheld(batch: pd.DataFrame, limits: checks.Limits) -> float:
    """The number of the case from which on a service that gets these one by one withholds confidence; NaN if none."""
    recent, names = RecentCases(), [name for name in limits.quantiles if name in batch]

    def test(tested: list[pd.DataFrame], repeats: float) -> Drift:
        return drift(tested, limits.quantiles, limits.subjects, repeats)

    for number, row in enumerate(batch.head(CASES).to_dict("records"), 1):
        images = [{name: float(row[name]) for name in names}]
        new = [{"case": row["case"], "subject": row["subject"], "source": "", "images": images}]
        source, result = recent.tested(new, test)
        if recent.record(new, source, result):
            return number
    return np.nan


def services(first: NDArray[np.floating]) -> str:
    """How many services withheld confidence, and from which case on."""
    share = f"{np.isfinite(first).sum()} of {len(first)}"
    return f"{share}, case {np.nanmedian(first):.0f}" if np.isfinite(first).any() else share


def rows_of(own: str, groups: dict[str, tuple[pd.DataFrame, checks.Measures, EarlyMaps | None]]) -> list[list[str]]:
    """The rows of the page for the training on one group."""
    (images, measures, maps), rng, tables = groups[own], np.random.default_rng(0), []
    number = images["subject"].map({name: n for n, name in enumerate(rng.permutation(images["subject"].unique()))})
    withheld: dict[str, list[float]] = {}
    for held_out in [(number % ROUNDS == turn).to_numpy() for turn in range(ROUNDS)]:
        (cases, subjects), folds = images[~held_out].to_numpy().T, (number // ROUNDS % FOLDS).to_numpy()[~held_out]
        training = checks.Training(measures.subset(~held_out), cases, subjects, folds, np.full(len(cases), ""))
        look, limits = checks.fit_look(checks.fit_limits(training), training, maps, []) or ()
        for group in (own, *GROUPS[own][-1]):
            new, measured, _ = (images[held_out], measures.subset(held_out), maps) if group == own else groups[group]
            new = new.reset_index(drop=True).assign(**checks.numbers_of_batch(measured, look), group=group)
            new["flag"] = [bool(texts) for texts in checks.image_flags(limits, measured, look=look)]
            for size in [size for size in SIZES if new["subject"].nunique() >= size]:
                drawn = [new.sample(frac=1, random_state=rng).drop_duplicates("subject") for _ in range(BATCHES)]
                texts = [drift([batch.head(size)], limits.quantiles, limits.subjects).text for batch in drawn]
                new[f"warned {size}"] = np.mean(np.array(texts) != "")
                if size == SIZES[0]:
                    first = np.array([first_withheld(batch, limits) for batch in drawn[:SERVICES]])
                    withheld.setdefault(group, []).extend(first)
            tables.append(new)
    return [
        [own, "own, held out" if group == own else group, f"{rows['subject'].nunique():,}", share(rows)]
        + [f"{rows[f'warned {size}'].mean():.0%}".replace("nan%", "too few subjects") for size in SIZES]
        + [services(np.array(withheld[group]))]
        for group, rows in pd.concat(tables).groupby("group", sort=False)
    ]


def main() -> None:
    """Measure every direction and write the page."""
    parser = page_parser(__doc__)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    heads = ["training", "new cases", "subjects", "flagged", *[f"batches of {size} warned of" for size in SIZES]]
    heads.append("services that withhold")
    groups = {name: read(name, options.data) for name in GROUPS}
    rows = [row for own in GROUPS if GROUPS[own][-1] for row in rows_of(own, groups)]
    publish("\n".join([head_of(__doc__), *table(heads, rows), ""]), options.output)


if __name__ == "__main__":
    main()
