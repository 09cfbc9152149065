"""How often input checks flag images that a model of chest films should not answer, and films that it should.

    python benchmarks/input_checks.py DATA [--run runs/input-checks] [--output docs/results/input-checks.md]

DATA is the folder of the packs `covid-cxr`, `severity-idrid` and `histology-oral`. A model of baselines on pixels is
trained on films of one source (`nih`), a quarter of the subjects held out. It predicts the held-out films as they are,
altered, and films and photographs of other sources. Pictures are altered in a temporary folder. No label of a held-out
film is read. The page has numbers only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.run import Run

Alteration = Callable[[np.ndarray], np.ndarray]
SMALL = 48
ALTERED: dict[str, Alteration] = {
    "turned by 180 degrees": lambda film: film[::-1, ::-1],
    "mirrored top to bottom": lambda film: film[::-1],
    "negative": lambda film: 255 - film,
    "black": lambda film: np.zeros_like(film),
    "half black": lambda film: np.where(np.arange(len(film))[:, None] < len(film) // 2, 0, film),
    "four times darker": lambda film: film // 4,
    f"reduced to {SMALL} px": lambda film: np.asarray(Image.fromarray(film).resize((SMALL, SMALL))),
    "tinted": lambda film: np.stack([film, film // 2, film // 3], axis=2),
}
STUDY = """
name: input-checks
cohort: {cohort}
columns: {{visit: "", date: ""}}
where: {{duplicate_of: "", source: nih}}
images: {{channels: grey, size: 224}}
panels: {{by: image}}
targets: {{label: [no_finding, pneumonia]}}
split: {{test: 0.25, folds: 5, stratify_by: label}}
backbones: []
weights: random
audit: {{permutations: 99}}
accept: {{shortcut-border: its figures are not reported}}
evaluation: {{bootstrap_resamples: 200, response: false, counterfactual_cases: 1}}
"""


def trained(data: Path, folder: Path) -> Run:
    """The run of the study, which continues if it was begun."""
    from casewise.run import run

    folder.mkdir(parents=True, exist_ok=True)
    study = folder / "study.yaml"
    study.write_text(STUDY.format(cohort=(data / "covid-cxr" / "cases.csv").absolute()), encoding="utf-8")
    return run(study, folder / "run", show=True)


def held_out(finished: Run) -> pd.DataFrame:
    """The films of the test set: path and subject."""
    sides = finished.files.splits.read()["subjects"]
    cohort = finished.files.cohort.read()
    return cohort.loc[cohort["subject"].astype(str).map(sides) == "test", ["path", "subject"]].astype(str)


def altered_films(films: pd.DataFrame, alteration: Alteration, folder: Path) -> pd.DataFrame:
    """The films as files in a folder, after an alteration."""
    folder.mkdir()
    paths = []
    for number, path in enumerate(films["path"]):
        with Image.open(path) as picture:
            film = np.asarray(picture.convert("L"))
        paths.append(folder / f"{number}.png")
        Image.fromarray(np.ascontiguousarray(alteration(film))).save(paths[-1])
    return films.assign(path=[str(path) for path in paths])


def others(data: Path, pack: str, count: int, **where: str) -> pd.DataFrame:
    """Some images of a pack, a subject of its own each."""
    table = pd.read_csv(data / pack / "cases.csv", dtype=str, keep_default_na=False)
    for column, value in where.items():
        table = table[table[column] == value]
    table = table.sample(min(count, len(table)), random_state=0)
    return pd.DataFrame({"path": [str(data.absolute() / pack / path) for path in table["path"]]})


def flagged(model: TrainedModel, table: pd.DataFrame) -> tuple[int, int, str]:
    """Cases, how many of them are flagged, and the reasons with their numbers, the most frequent first."""
    names = [f"case-{number}" for number in range(len(table))]
    rows = pd.concat(list(model.predict_in_chunks(table.assign(subject=names))))
    if (problems := rows["problem"] != "").any():
        raise SystemExit(f"not predicted: {rows.loc[problems, 'problem'].iloc[0]}")
    flags = rows.drop_duplicates("case")["flags"]
    reasons = flags[flags != ""].str.split("; ").explode().value_counts()
    return len(flags), int((flags != "").sum()), "; ".join(f"{name} ({count})" for name, count in reasons.items())


def page(finished: Run, data: Path, count: int) -> str:
    """The table as a page in Markdown."""
    from casewise.inference.model import load_bundle

    model, films = load_bundle(finished.folder / "bundle"), held_out(finished)
    limits = model.limits
    assert limits is not None
    few = films.sample(min(count, len(films)), random_state=0)
    with tempfile.TemporaryDirectory() as temporary:
        groups = {"held-out films, as they are": films[["path"]]}
        for number, (name, alteration) in enumerate(ALTERED.items()):
            groups[f"held-out films, {name}"] = altered_films(few, alteration, Path(temporary) / str(number))[["path"]]
        groups["films of another source"] = others(data, "covid-cxr", count, source="cohen", duplicate_of="")
        groups["photographs of the eye's fundus"] = others(data, "severity-idrid", count)
        groups["histology"] = others(data, "histology-oral", count)
        rows = [(name, *flagged(model, table)) for name, table in groups.items()]
    lines = [
        "# Input checks on real images",
        "",
        f"A model of chest films of one source, trained on {limits.subjects:,} subjects ({limits.images:,} films). Its "
        "limits were chosen on training subjects out of fold (see [Predict new cases](../howto-predict.md)); held-out "
        "films are to be flagged in at most 5 %. Films are from another 25 % of the subjects of this source, altered "
        "ones a random part of them. A case is one image. By `python benchmarks/input_checks.py DATA --output "
        "docs/results/input-checks.md`.",
        "",
        "| images | cases | flagged | reasons (cases) |",
        "|---|---|---|---|",
        *[f"| {name} | {cases:,} | {hit:,} ({hit / cases:.1%}) | {why} |" for name, cases, hit, why in rows],
        "",
        "Films of another source are films, and a flag is not the aim for them: the checks see an image that is "
        "unlike the training in what they measure, and not every image that a model is wrong about.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train, predict and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/input-checks"))
    parser.add_argument("--count", type=int, default=60, help="images of each group besides the held-out films")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = page(trained(arguments.data, arguments.run), arguments.data, arguments.count)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
