"""The letterbox control: does a trained network change its answer when bars appear around a film?

    python benchmarks/letterbox.py RUN [--network mobilenet_v2] [--fold 1] [--films 50] [--output letterbox.md]

From a run of the study covid-cxr, or another study of classes, it takes square films of one class (`--from`) that the
network of a fold did not learn from, one of each subject, and counts how many of them the network names another class
(`--to`): as they are; cropped to three quarters of their height and prepared as the study prepares its images; the same
crop with black bars, with mirrored bars, and stretched to the square; and cropped to the same area on all four sides,
which leaves them square. What a crop to another shape changes, and a square crop does not, comes from the shape. Every
fold is examined, or the one that is named. Nothing is trained.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.inference.predictor import Predictor

# The share of the height that remains.
KEPT = 0.75


@dataclass(frozen=True)
class Way:
    """One way of preparing films: the shares of height and width that remain, and changes to the study's `images`."""

    name: str
    kept: tuple[float, float]
    images: dict[str, str]


AS_THEY_ARE = Way("as they are", (1, 1), {})
BY_FIT = (
    Way("cropped, with black bars", (KEPT, 1), {"fit": "pad", "padding": "black"}),
    Way("cropped, with mirrored bars", (KEPT, 1), {"fit": "pad", "padding": "reflect"}),
    Way("cropped and stretched", (KEPT, 1), {"fit": "stretch"}),
)
TO_A_SQUARE = Way("cropped to a square of the same area", (KEPT**0.5, KEPT**0.5), {})


def ways_of(images: Mapping[str, Any]) -> list[Way]:
    """The ways of preparing films, with that of the study's settings `images` once.

    >>> [way.name for way in ways_of({"fit": "stretch", "padding": "auto"})][-2:]
    ['cropped and stretched, as in the study', 'cropped to a square of the same area']
    >>> ways_of({"fit": "crop", "padding": "auto"})[1].name
    'cropped, prepared as in the study'
    """
    of_study = [way for way in BY_FIT if all(images[name] == value for name, value in way.images.items())]
    by_fit = [replace(way, name=f"{way.name}, as in the study") if way in of_study else way for way in BY_FIT]
    other = [] if of_study else [Way("cropped, prepared as in the study", (KEPT, 1), {})]
    return [AS_THEY_ARE, *other, *by_fit, TO_A_SQUARE]


def held_out_films(run: Path, network: str, fold: int, label: str, target: str) -> list[Path]:
    """The square films of a class, one of each subject whom the network of a fold never learned from.

    Raises:
        RunError: the run lacks the network, its cohort, or its tiles.
    """
    from casewise.modalities.store.store import open_store
    from casewise.run_folder import RunFolder
    from casewise.study.loading import saved_study

    folder = RunFolder(run)
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    index = open_store(folder.images(study.images.store).of("tiles")).index
    predictions = folder.job(network, fold).predictions.read()
    own = predictions[(predictions["stage"] == "oof") & (predictions["target"] == target)]
    square = set(index.loc[index["width"] == index["height"], "path"])
    images = folder.cohort.read()
    chosen = images[images["subject"].isin(own["subject"]) & images["path"].isin(square)]
    chosen = chosen[chosen[target].map(lambda value: _label(study, target, value)) == label]
    return [Path(path) for path in chosen.drop_duplicates("subject")["path"]]


def _label(study: Any, target: str, value: Any) -> str:
    classes = study.classes_of(target)
    return classes[int(value)] if isinstance(value, (int, float)) and not np.isnan(value) else str(value)


def answers(predictor: Predictor, bundle: Bundle, films: list[Path], way: Way, folder: Path) -> list[str]:
    """The class that the network names for each film, prepared in one way."""
    from PIL import Image

    from casewise.console import Silent
    from casewise.inference.new_cases import NewTable
    from casewise.modalities.base import StoreAddress
    from casewise.modalities.store.readers import read_image

    folder.mkdir()
    rows = []
    for number, film in enumerate(films):
        pixels = read_image(film)
        height, width = (round(length * kept) for length, kept in zip(pixels.shape, way.kept, strict=False))
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        pixels = pixels[top : top + height, left : left + width]
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append({"path": str(path), "subject": f"film{number:03d}"})
    table = folder / "films.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    study = bundle.study(table)
    study = study.model_copy(update={"images": study.images.model_copy(update=way.images)})
    cases = NewTable(study, own=True).prepared(folder, Silent())
    address = StoreAddress(cases.store.folder, cases.store.address)
    predictions = predictor.predict_cases(study, cases.cohort.panels, address, stage="new").sort_values("subject")
    classes = study.classes_of(study.primary_outcome)
    columns = [f"p{number}" for number in range(len(classes))]
    return [classes[number] for number in predictions[columns].to_numpy().argmax(axis=1)]


def counts_by_way(answers_by_way: Mapping[str, list[str]], to: str) -> list[dict[str, Any]]:
    """For each way the films, how many are named `to`, how many change to it, of those that were others, or at all."""
    plain = answers_by_way[AS_THEY_ARE.name]
    rows = []
    for name, named in answers_by_way.items():
        changed = [new for new, old in zip(named, plain, strict=True) if new != old]
        counts = {"films": len(named), "named": named.count(to), "others": len(plain) - plain.count(to)}
        rows.append({"way": name, **counts, "changed_to": changed.count(to), "changed": len(changed)})
    return rows


def interval(count: int, of: int) -> str:
    """A count with its share and Wilson's 95 % interval in percent, for films of different subjects.

    >>> interval(16, 250), interval(0, 0)
    ('16 of 250 (6 % [4, 10])', '0 of 0')
    """
    from scipy.stats import binomtest

    if not of:
        return f"{count} of {of}"
    ends = binomtest(count, of).proportion_ci(method="wilson")
    return f"{count} of {of} ({100 * count / of:.0f} % [{100 * ends.low:.0f}, {100 * ends.high:.0f}])"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    first = [str(row["fold"]), row["way"], interval(row["named"], row["films"])]
    if row["way"] == AS_THEY_ARE.name:
        return [*first, "–", "–"]
    return [*first, interval(row["changed_to"], row["others"]), interval(row["changed"], row["films"])]


def page(counts: pd.DataFrame, facts: dict[str, Any]) -> str:
    """The Markdown page: a row for each fold and way, and for several folds one of all together."""
    tables = [counts]
    if counts["fold"].nunique() > 1:
        tables.append(counts.drop(columns="fold").groupby("way", sort=False).sum().reset_index().assign(fold="all"))
    lines = [
        "# The letterbox control",
        "",
        f"{facts['study']}, {facts['network']}, folds: {', '.join(map(str, facts['folds']))}. The network of each fold "
        f"named up to {facts['films']} square films of {facts['from']}, each of another subject, whom it did not learn "
        f"from. The study prepares images with `fit: {facts['fit']}`. Cropped films keep the central {KEPT:.0%} of "
        "their height, or the same area as a square. An answer changes if the network names another class than for "
        "the film as it is. In brackets: Wilson's 95 % intervals of the share. They are of single figures: the same "
        "films are prepared in every way, so overlapping intervals do not show that two ways are alike.",
        "",
        f"| fold | prepared | named {facts['to']} | changed to {facts['to']}, of the others | changed at all |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(cells(row))} |" for table in tables for row in table.to_dict("records")),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    from casewise.inference.bundle import Bundle
    from casewise.inference.predictor import Predictor
    from casewise.run_folder import RunFolder
    from casewise.study.loading import saved_study

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of covid-cxr")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--fold", type=int, help="a single fold; default: every fold")
    parser.add_argument("--films", type=int, default=50, help="the largest number of films in a fold")
    parser.add_argument("--from", dest="source", default="no_finding", help="the class of the films")
    parser.add_argument("--to", default="covid", help="the class that is counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the table to this Markdown file")
    options = parser.parse_args()

    study = saved_study(RunFolder(options.run).study.read(), source=str(options.run))
    folds = [options.fold] if options.fold else list(range(1, study.split.folds + 1))
    rows: list[dict[str, Any]] = []
    for fold in folds:
        bundle = Bundle.open(RunFolder(options.run).job(options.network, fold - 1).path)
        predictor = Predictor.from_bundle(bundle)
        target = next(output["name"] for output in bundle.outputs if output["main"])
        films = held_out_films(options.run, options.network, fold - 1, options.source, target)
        order = np.random.default_rng(options.seed).permutation(len(films))[: options.films]
        films = [films[number] for number in sorted(order)]
        with tempfile.TemporaryDirectory() as folder:
            by_way = {
                way.name: answers(predictor, bundle, films, way, Path(folder) / str(number))
                for number, way in enumerate(ways_of(bundle.settings["images"]))
            }
        rows += [{"fold": fold, **row} for row in counts_by_way(by_way, options.to)]
    facts = {
        "films": options.films,
        "folds": folds,
        "from": options.source,
        "to": options.to,
        "network": options.network,
        "study": study.name,
        "fit": bundle.settings["images"]["fit"],
    }
    text = page(pd.DataFrame(rows), facts)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
