"""Under which reading of the recipe of One-Step PASI pretrained networks learn, and what a limit of gradients does.

    python benchmarks/recipe.py --cohort COHORT --weights FOLDER [--output docs/results/recipe.md]

`casewise phantom` draws the cohort. The head of the page follows, with its figures in braces.

# The recipe of One-Step PASI, and its limit of gradients

The publication states SGD with momentum 0.9, a learning rate of 0.01, batches of 16 and mean squared error. It states
no limit of the gradients, and not of which quantity the loss is taken, nor whether a network has one output or four.
Each row below is a reading of these statements, for those of the 29 networks whose pretrained weights are at hand, and
for EfficientNet-Lite0, which stands for the EfficientNets of the text:
{panels} panels of {train} phantoms for {epochs} epochs of {steps} steps ({size} pixels, 2×2 photographs, variations as
in the preset). The epoch with the lowest loss on {stop} further subjects is kept; {test} other subjects are predicted.
Readings stand in the order of their distance from the text.

- **Loss**: of the scores in their units, or of scores standardised by the training subjects.
- **Outputs**: erythema, induration, scaling and area of a region (four), or their composite (E + I + S) × B (one).
- **Limit**: the largest norm of the gradient of a step. "First norms" is the 95 % quantile of the norms of an epoch's
  batches at the first weights, measured for each network.
- **Warm-up**: the rate rises over the first {warmup} epochs.
- **Error**: mean absolute error of the PASI score of a visit. A guess is the mean of the training visits: {guess:.2f}.
- **Learns**: the error is below the guess's, and the 95 % interval of the difference by subject excludes 0.

Phantoms are easier than patients, {train} subjects are few, and {epochs} epochs are far fewer than the 1,000 of the
text: the page compares first steps by recipe and says nothing about patients. Each network was trained once for each
reading, and intervals are not corrected for the number of readings.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from pages import DATA, head_of, page_parser, publish, table

from casewise.errors import TrainingError, counted, listed
from casewise.modalities.dataset import PanelData, steps_of
from casewise.modalities.store.readers import read_image
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.models.shared_parts import predict_together
from casewise.models.weights import load_weights
from casewise.study.images import Panels
from casewise.study.recipe import Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training, TrainingContext, standardise

# those of the 29 whose weights are at hand, and one whose batch statistics are certainly those of ImageNet
NETWORKS = ("mobilenet_v2", "squeezenet1_1", "timm:tf_efficientnet_lite0.in1k")
SIDE, TRAIN, STOP, EPOCHS, WARMUP, SEED = 40, 14, 4, 10, 2, 7
TARGETS, HIGHEST = ["erythema", "induration", "scaling", "area"], np.array([4.0, 4, 4, 6])
WEIGHTS_OF_REGIONS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4}
PANELS = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)
RESAMPLES = 2000


@dataclass(frozen=True)
class Reading:
    """A reading of the recipe.

    Attributes:
        limit: of the norm of gradients; None: no limit; 0: the quantile of the first norms.
    """

    standardised: bool
    outputs: int
    limit: float | None = None
    warmup: bool = False

    @property
    def cells(self) -> list[str]:
        """The reading as cells of the table."""
        limit = {None: "none", 0.0: "first norms"}.get(self.limit, f"{self.limit:g}" if self.limit else "")
        return [
            "standardised" if self.standardised else "in units",
            "four" if self.outputs > 1 else "one",
            limit,
            "yes" if self.warmup else "no",
        ]

    @property
    def text(self) -> str:
        """The reading in words."""
        loss, outputs, limit, _ = self.cells
        limited = {"none": "no limit", "first norms": "a limit at the first norms"}.get(limit, f"a limit of {limit}")
        return f"loss {loss}, {outputs} output{'s' * (outputs != 'one')}, {limited}{', a warm-up' * self.warmup}"


# in the order of their distance from the text: nothing added, a warm-up, a limit that few steps reach, a limit of 1
READINGS = [
    *(Reading(standardised, outputs) for standardised in (False, True) for outputs in (4, 1)),
    *(Reading(standardised, 4, warmup=True) for standardised in (False, True)),
    *(Reading(standardised, 4, 0.0) for standardised in (False, True)),
    *(Reading(standardised, 4, 1.0) for standardised in (False, True)),
]


@dataclass(frozen=True)
class Trained:
    """A network trained by a reading: the errors (S,) of the test subjects, and what was recorded in training."""

    network: str
    reading: Reading
    errors: np.ndarray | None
    gain: tuple[float, float, float]
    history: list[dict[str, float]]
    limit: float | None
    reason: str

    @property
    def learns(self) -> bool:
        return self.errors is not None and self.gain[1] > 0

    @property
    def cells(self) -> list[str]:
        """What was measured, as cells of the table."""
        norms = [entry["gradient_norm"] for entry in self.history if "gradient_norm" in entry]
        shares = [entry["limited_steps"] for entry in self.history if "limited_steps" in entry]
        stated = [f"{norms[0]:.1f}, {median(norms):.1f}" if norms else "–", f"{fmean(shares):.0%}" if shares else "–"]
        if self.errors is None:
            return [*stated, "diverges", "–", "no"]
        value, low, high = self.gain
        return [
            *stated,
            f"{self.errors.mean():.2f}",
            f"{value:.2f} [{low:.2f}, {high:.2f}]",
            ("no", "yes")[self.learns],
        ]


class _Warmed(Training):
    """A training whose rate rises from step to step over the first epochs."""

    def step(self, rows: list[int], epoch: int, number: int, *prepared: Any) -> Any:
        share = (epoch * self.steps + number + 1) / (WARMUP * self.steps)
        if share <= 1:
            self.set_rates(share)
        return super().step(rows, epoch, number, *prepared)


@dataclass(frozen=True)
class Cohort:
    """The panels of a cohort, with the rows of each part, and the true scores (P, 4)."""

    panels: pd.DataFrame
    data: PanelData
    parts: dict[str, list[int]]

    @classmethod
    def of(cls, folder: Path) -> Cohort:
        """The panels of the phantoms; subjects are drawn for training, for stopping and for the test."""
        images = pd.read_csv(folder / "visits.csv")
        pictures = [picture(folder / path) for path in images["path"]]
        panels = (
            images.assign(number=range(len(images)))
            .groupby(["subject", "visit", "region"], sort=True)
            .agg(tiles=("number", list), **{name: (name, "first") for name in TARGETS})
            .reset_index()
        )
        subjects = np.random.default_rng(SEED).permutation(sorted(set(panels["subject"])))
        named = dict(zip(("train", "stop", "test"), np.split(subjects, [TRAIN, TRAIN + STOP]), strict=True))
        parts = {name: np.flatnonzero(panels["subject"].isin(own)).tolist() for name, own in named.items()}
        truth = torch.tensor(panels[TARGETS].to_numpy(np.float32))
        store = torch.from_numpy(np.stack(pictures))
        return cls(panels, PanelData(store, panels["tiles"].tolist(), truth, PANELS), parts)

    def part(self, name: str, outputs: int) -> PanelData:
        """The panels of a part, whose labels are the four scores or the composite."""
        part = self.data.subset(self.parts[name])
        labels = part.truth if outputs > 1 else composite(part.truth)[:, None]
        return PanelData(part.store, part.tiles, labels, part.settings)

    def pasi(self, name: str, composites: np.ndarray) -> pd.Series:
        """The score of each visit of a part from the composites (P,) of its regions, by subject and visit."""
        rows = self.panels.iloc[self.parts[name]]
        weighted = composites * rows["region"].map(WEIGHTS_OF_REGIONS).to_numpy()
        return pd.Series(weighted, index=rows.index).groupby([rows["subject"], rows["visit"]]).sum()


def picture(path: Path) -> np.ndarray:
    """A photograph (3, SIDE, SIDE) uint8, padded with black to a square."""
    image = read_image(path)
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return square.transpose(2, 0, 1).copy()


def composite(scores: torch.Tensor) -> torch.Tensor:
    """(P,) the composite of a region from its four scores (P, 4).

    >>> composite(torch.tensor([[1.0, 2, 3, 4]]))
    tensor([24.])
    """
    return scores[:, :3].sum(dim=1) * scores[:, 3]


def interval(gains: np.ndarray) -> tuple[float, float, float]:
    """The mean gain over subjects (S,), and its 95 % interval by resampling subjects."""
    draws = np.random.default_rng(SEED).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.quantile(gains[draws].mean(axis=1), (0.025, 0.975))
    return float(gains.mean()), float(low), float(high)


def by_subject(errors: pd.Series) -> np.ndarray:
    """(S,) the mean error of each subject."""
    return errors.abs().groupby(level="subject").mean().to_numpy()


def first_network(name: str, reading: Reading, train: PanelData, outputs: list[Output], weights: Path) -> Network:
    """The network with its first weights, and the scale of its outputs as in the reading."""
    torch.manual_seed(SEED)
    network = build_network(name, reading.outputs, **({"dropout": 0.5} if name.startswith("squeezenet") else {}))
    load_weights(network, "pretrained", folder=weights)
    if reading.standardised:
        standardise(network, train.truth, outputs)
    return network


def trained(name: str, reading: Reading, cohort: Cohort, weights: Path, folder: Path) -> Trained:
    """Train a network by a reading, and predict the test subjects."""
    outputs = [Output(target) for target in (TARGETS if reading.outputs > 1 else ["composite"])]
    train, stop, test = (cohort.part(part, reading.outputs) for part in ("train", "stop", "test"))
    network = first_network(name, reading, train, outputs, weights)
    recipe = Recipe(epochs=EPOCHS, clip_gradients=reading.limit or None)
    context = TrainingContext(outputs, folder, SEED, ComputePlan())
    if reading.limit == 0:
        still = Training(copy.deepcopy(network), recipe.model_copy(update={"lr": 1e-30}), train, context)
        still.run_epoch(stop)
        recipe = recipe.model_copy(update={"clip_gradients": still.history[0]["gradient_norm_q95"]})
    training = (_Warmed if reading.warmup else Training)(network, recipe, train, context)
    reason = ""
    try:
        while len(training.history) < EPOCHS and not training.stopped:
            training.run_epoch(stop)
    except TrainingError as error:
        reason = str(error)
    if reason or not np.isfinite(training.history[-1]["stop_loss"]):
        return Trained(name, reading, None, (0, 0, 0), training.history, recipe.clip_gradients, reason or "not finite")
    network.load_state_dict(training.best)
    values = predict_together([network.eval()], test, outputs, batch=16, channels_last=False, flips=False)[0][0]
    values = values.double().numpy()
    if reading.outputs > 1:
        composites = composite(torch.from_numpy(values.clip(0, HIGHEST))).numpy()
    else:
        composites = values[:, 0].clip(0, 72)
    truth = cohort.pasi("test", composite(cohort.part("test", 4).truth).numpy())
    errors = by_subject(cohort.pasi("test", composites) - truth)
    gains = by_subject(truth - guess(cohort)) - errors
    return Trained(name, reading, errors, interval(gains), training.history, recipe.clip_gradients, "")


def guess(cohort: Cohort) -> float:
    """The mean score of the training visits."""
    return float(cohort.pasi("train", composite(cohort.part("train", 4).truth).numpy()).mean())


def page(results: list[Trained], cohort: Cohort) -> str:
    """The page: its head, the conclusion, and the table."""
    truth = cohort.pasi("test", composite(cohort.part("test", 4).truth).numpy())
    counts = {name: cohort.panels.iloc[rows]["subject"].nunique() for name, rows in cohort.parts.items()}
    panels = len(cohort.parts["train"])
    steps = steps_of(panels, Recipe().batch_size)
    error = float(by_subject(truth - guess(cohort)).mean())
    facts = {"panels": panels, "epochs": EPOCHS, "steps": steps, "size": 2 * SIDE, "warmup": WARMUP, "guess": error}
    heads = ["network", "loss", "outputs", "limit", "warm-up", "norm, first epoch and median", "limited steps"]
    heads += ["error", "guess minus error", "learns"]
    rows = [[result.network, *result.reading.cells, *result.cells] for result in results]
    lines = [head_of(__doc__, **facts, **counts), *conclusions(results), "", *table(heads, rows), ""]
    return "\n".join(lines)


def conclusions(results: list[Trained]) -> list[str]:
    """Which readings let all networks learn, which of them is nearest to the text, and what a limit of 1 does."""
    names = list(dict.fromkeys(result.network for result in results))
    learning = {
        reading: [r.network for r in results if r.reading == reading and r.learns]
        for reading in dict.fromkeys(result.reading for result in results)
    }
    best = next((reading for reading, own in learning.items() if len(own) == len(names)), None)
    most = best or max(learning, key=lambda reading: len(learning[reading]))
    lines = [
        f"**The reading nearest to the text under which all networks learn: {best.text}.**"
        if best
        else f"**Under no reading do all {len(names)} networks learn; under most, {len(learning[most])}, they do with "
        f"{most.text}.**"
    ]
    nearer = [reading for reading in learning if list(learning).index(reading) < list(learning).index(most)]
    for reading in nearer:
        own = [r for r in results if r.reading == reading and not r.learns]
        verdicts = ["diverges" if r.errors is None else "is not shown to be better than a guess" for r in own]
        ends = [f"{r.network} {verdict}" for r, verdict in zip(own, verdicts, strict=True)]
        lines.append(f"- With {reading.text}: {listed(ends)}." if ends else f"- With {reading.text}, all learn.")
    limited = [r for r in results if r.reading.limit == 1]
    shares = [fmean(e["limited_steps"] for e in r.history) for r in limited if r.history]
    if shares:
        lines.append(
            f"- A limit of 1 is reached in {_shares(shares)} of the steps, and "
            f"{sum(r.learns for r in limited)} of {counted(len(limited), 'training')} learn with it. Steps that reach "
            "it do not grow with the gradient, so it is another recipe than SGD with this rate."
        )
    quantiles = [r for r in results if r.reading.limit == 0]
    if quantiles:
        shares = [fmean(e["limited_steps"] for e in r.history) for r in quantiles if r.history]
        limits = [r.limit or 0.0 for r in quantiles]
        lines.append(
            f"- A limit at the first norms lies at {min(limits):.0f} to {max(limits):.0f} and is reached in "
            f"{_shares(shares)} of the steps."
        )
    return lines


def _shares(shares: list[float]) -> str:
    """The smallest and the largest of shares."""
    low, high = (f"{share:.0%}" for share in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--cohort", type=Path, required=True, help="the folder of `casewise phantom`")
    parser.add_argument("--weights", type=Path, default=DATA.with_name("weights"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cohort, results = Cohort.of(options.cohort), []
    for name in NETWORKS:
        for reading in READINGS:
            with tempfile.TemporaryDirectory() as folder:
                results.append(trained(name, reading, cohort, options.weights, Path(folder)))
            print(name, *reading.cells, *results[-1].cells, sep=", ", flush=True)
    publish(page(results, cohort), options.output)


if __name__ == "__main__":
    main()
