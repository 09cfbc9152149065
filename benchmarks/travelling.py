"""Do weights by class and source help in a source that a model has not seen, and what do they cost in known sources?

    python benchmarks/travelling.py [--data ../shared/data] [--output docs/results/travelling.md]

The mean of linear models on four maps of MobileNetV2 is fitted plain and with the weights of `meant_for:
other_sources`, with each source left out, and in three folds of subjects, where every source is known. In *confounded*
studies the class goes with the source: in training, each source keeps one in seven cases of one class, in turn of the
other class; whoever is judged is never thinned. Figures are means over sources of the figure within each; in brackets
95 % intervals over 200 resamples of subjects within sources. Differences are weighted minus plain, on the same cases
and resamples. Images of oral carcinoma have no known subjects, and count as one each; its sources are magnifications.

Other parts of a recipe for other sources were tried in a prototype with all inputs of the linear model, and left out
because they did not help in the sources left out (single figures, without intervals). Inner folds that leave out
sources instead of subjects: with the weights, the AUROC in gliomas changed by +0.006 and 0.000 (two sites), by
+0.004, -0.013 and -0.008 (three sites, confounded) and by -0.039 (trained on two confounded sites); where sources
differ, the loss asks for too strong a penalty. A penalty ten times stronger than chosen: +0.006 and -0.024, with a
worse loss in both. A masked frame and masked corners: -0.038 in gliomas, +0.018 and +0.001 in the two directions of
pneumonia. An equalised histogram: -0.065 in gliomas and -0.070 in pneumonia. A central crop: -0.020 in gliomas.
Networks draw cases by the same weights, which was not measured. A class that only one source has cannot be learned
without the source, and such a study is refused.
"""

from pathlib import Path

import numpy as np
import pages
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from casewise.models.encoders import encoder_facts, load_encoders
from casewise.models.linear import FeatureSpec, bank_of, build_linear
from casewise.models.outputs import Output
from casewise.training.linear_models import linear_model
from casewise.training.losses import weights_within

# The folder, the columns of the source and of the label, its two values, the side of an image, and rows to keep.
PACKS = {
    "gliomas in slices": ("mri-lgg", "site", "tumor_in_slice", (0, 1), 96, "sequence == 'flair' and site != 'EZ'"),
    "oral carcinoma": ("histology-oral", "view", "label", ("normal", "oscc"), 128, "view != ''"),
    "pneumonia": ("covid-cxr", "source", "label", ("no_finding", "pneumonia"), 128, "duplicate_of.isna()"),
}
OUTPUT, GRIDS = Output("label", "classification", 2), [("14.conv.0", 1), ("14.conv.0", 3), ("7.conv.0", 4), ("13", 4)]
SPECS = [FeatureSpec("features", (), (f"features.{module}",), "grid", cells).as_json() for module, cells in GRIDS]


def maps(images: list[Image.Image], weights: Path) -> list[np.ndarray]:
    """The features (N, W) of four maps."""
    bank = {"encoders": [encoder_facts("mobilenet_v2", weights)], "channels": 3, "specs": SPECS}
    reader = bank_of(build_linear("m", 2, bank, {"side": images[0].width})).eval()
    load_encoders(reader, weights)
    with torch.inference_mode():
        read = [reader(torch.from_numpy(np.asarray(each) / np.float32(255)).permute(2, 0, 1)[None]) for each in images]
    return np.split(torch.cat(read).double().numpy(), np.cumsum(reader.widths)[:-1], axis=1)


def predicted(blocks: list[np.ndarray], train: pd.DataFrame, test: np.ndarray, *, weighted: bool) -> np.ndarray:
    """The logit of the second class in the rows `test`."""
    labels, subjects, at = train["label"].to_numpy(), train["subject"].to_numpy(), train.index
    weights = weights_within(labels, train["source"].tolist()) if weighted else None
    fitted = [(block[test], linear_model(block[at], labels, subjects, OUTPUT, weights=weights)) for block in blocks]
    return np.mean([values @ np.diff(m.weight, axis=0)[0] + np.diff(m.bias) for values, m in fitted], axis=0)


def figures(labels: np.ndarray, logits: np.ndarray, sources: list[np.ndarray]) -> np.ndarray:
    """AUROC and balanced accuracy of each column of logits, (2, columns), the mean over sources (rows of each)."""
    y_z = [[(labels[rows], z) for z in logits[rows].T] for rows in sources]
    return np.nanmean([[(roc_auc_score(y, z), balanced_accuracy_score(y, z > 0)) for y, z in s] for s in y_z], axis=0).T


def lines(name: str, blocks: list[np.ndarray], rows: pd.DataFrame) -> list[list[str]]:
    """The lines of a study: as it is and confounded, with sources left out and known."""
    labels, every, table = rows["label"].to_numpy(), np.arange(len(rows)), []
    numbers, by_subject = rows["source"].rank(method="dense").to_numpy(), GroupKFold(3, shuffle=True, random_state=0)
    sources = [np.flatnonzero(numbers == number) for number in sorted(set(numbers))]
    kept = every[(labels != numbers % 2) | (np.random.default_rng(0).random(len(rows)) < 1 / 7)]
    designs = {"left out": sources, "known": [test for _, test in by_subject.split(every, groups=rows["subject"])]}
    people = [[own.index.to_numpy() for _, own in rows.loc[each].groupby("subject")] for each in sources]
    draw = np.random.default_rng(0).integers
    resamples = [[np.concatenate([p[i] for i in draw(0, len(p), len(p))]) for p in people] for _ in range(200)]
    for pool, (design, sides) in ((pool, design) for pool in (every, kept) for design in designs.items()):
        logits = np.empty((len(rows), 2))
        for test in sides:
            train = rows.loc[np.setdiff1d(pool, test)]
            logits[test] = np.stack([predicted(blocks, train, test, weighted=each) for each in (False, True)], axis=1)
        drawn = [figures(labels, logits, rows_of_sources) for rows_of_sources in (sources, *resamples)]
        for metric, of in zip(("AUROC", "balanced accuracy"), np.stack(drawn, axis=1), strict=True):
            ends = [(each[0], *np.percentile(each[1:], [2.5, 97.5])) for each in (*of.T, of[:, 1] - of[:, 0])]
            cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in ends]
            table.append([name + ", confounded" * (pool is kept), design, metric, *cells])
            print(*table[-1], sep=" | ", flush=True)
    return table


if __name__ == "__main__":
    options, table = pages.page_parser(__doc__, data=True).parse_args(), []
    for name, (pack, source, label, classes, side, kept) in PACKS.items():
        rows = pd.read_csv(options.data / pack / "cases.csv").query(kept).query(f"{label} in {classes}").reset_index()
        rows = rows.assign(source=rows[source], label=1.0 * (rows[label] == classes[1]))
        files = [Image.open(options.data / pack / path).convert("RGB").resize((side, side)) for path in rows["path"]]
        table += lines(name, maps(files, options.data.parent / "weights"), rows)
    body = pages.table(["study", "source", "metric", "plain", "weighted", "difference"], table)
    pages.publish("\n".join(["# Other sources", "", *__doc__.split("\n\n", 2)[2:], *body, ""]), options.output)
