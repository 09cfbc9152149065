"""Planning the encoders whose features the baselines read, by what is on this computer and the time budget."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from casewise.console import duration
from casewise.errors import WeightsError
from casewise.study.learners import encoders_of
from casewise.study.sources import KnownEncoder, known_encoders
from casewise.study.weight_files import FirstWeights

if TYPE_CHECKING:
    from casewise.study.schema import Study

# The most encoders of the baselines, the share of the budget that they may take, and how many cores a GPU is worth.
MOST_ENCODERS, ENCODER_SHARE, GPU = 3, 0.25, 60
# Seconds of a core in which both baselines are fitted, for a row, a direction, an output and an encoder; the panels by
# which it is measured how much slower this computer is, and how often.
FIT, TRIED, REPEATS = 7e-6, 4, 4
NOT_HERE = "not on this computer"


def planned_encoders(
    study: Study, images: int, flips: str, *, fits: float = 0.0, slow: float = 1.0, download: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The encoders of the baselines: the stated ones, or the first and the best others whose weights are here.

    A study that states `weights: pretrained` has open weights downloaded.

    Args:
        fits: seconds of a core in which the baselines are fitted to the features of an encoder.
        slow: how much slower than in the table of encoders a core is.
        download: whether to do so now; otherwise such weights count as present. After a failed download no other is
            tried.

    Returns:
        The encoders, and of every other known encoder why it is not used.
    """
    from joblib import cpu_count

    first = encoders_of(study)
    if study.encoders or study.baselines.off or not first:
        return list(study.encoders), {}
    views = 4 if flips in ("both", "dihedral") else 1 if flips in ("none", "vertical") else 2
    # sequences are read one by one, and together
    megapixels = images * views * (4 if study.fusions else 1) * study.images.size**2 / 1e6
    cores = _cores(study)
    chosen: list[str] = []
    families: set[str] = set()
    others, left = {}, ENCODER_SHARE * study.budget
    downloads = study.weights == "pretrained" and "weights" in study.model_fields_set
    for encoder in sorted(known_encoders(), key=lambda encoder: encoder.name not in first):
        name, seconds = encoder.name, slow * (megapixels * encoder.seconds / cores + fits / cpu_count())
        if name in first:
            left -= seconds
            families.add(encoder.family)
        elif problem := _why_not_here(encoder, study, downloads):
            others[name] = problem
        elif encoder.family in families - {""}:
            others[name] = f"another {encoder.family} is used"
        elif len(first) + len(chosen) >= MOST_ENCODERS:
            others[name] = f"{MOST_ENCODERS} others are used"
        elif seconds > left:
            others[name] = f"takes about {duration(seconds)}, more than is left of a quarter of the budget"
        elif download and (failed := _failed_download(name, study)):
            others[name], downloads = f"{NOT_HERE}; {failed}", False
        else:
            left -= seconds
            chosen.append(name)
            families.add(encoder.family)
    return [*first, *chosen], others


def _why_not_here(encoder: KnownEncoder, study: Study, downloads: bool) -> str:
    """Why a plan cannot use the weights of an encoder; empty if it can."""
    weights = FirstWeights(encoder.name, folder=study.weights_dir)
    if not weights.is_present:
        if downloads and not encoder.access:
            return ""
        return f"{NOT_HERE}; {encoder.access or 'open'}, {encoder.licence}"
    try:
        weights.clause()
    except WeightsError as error:  # nobody asked for this encoder, so that its file stops no run
        return str(error)
    return ""


def _failed_download(name: str, study: Study) -> str:
    """Download the weights of an encoder into the cache of its library if they are not here; why that failed, or ""."""
    from casewise.models.weights import download_of

    weights = FirstWeights(name, folder=study.weights_dir)
    if weights.is_present:
        return ""
    try:
        with download_of(weights):
            weights.source.download(name)
    except WeightsError as error:
        return "its download failed" + (f" ({error.__cause__})" if error.__cause__ else "")
    return ""


def _cores(study: Study) -> float:
    """The cores that compute features, or what a GPU is worth."""
    import torch
    from joblib import cpu_count

    device = study.compute.device
    return GPU if device != "cpu" and torch.cuda.is_available() else int(cpu_count())


def fitting_seconds(study: Study, panels: int, folds: int) -> float:
    """Seconds of a core in which the baselines of all folds are fitted to the features of an encoder."""
    from casewise.jobs.fitting import MOST_FITTED
    from casewise.training.linear_models import MOST_DIRECTIONS

    rows = min(panels * (folds - 1) / folds if folds > 1 else panels, MOST_FITTED)
    outputs = sum(max(1, len(study.classes_of(name))) for name in study.outputs)
    return (folds + (study.final == "refit")) * FIT * rows * min(rows, MOST_DIRECTIONS) * outputs


def encoder_slowness(study: Study) -> float:
    """How many times longer than in the table of encoders a core of this computer takes; 1 with a GPU."""
    return 1.0 if _cores(study) == GPU else _measured_slowness(study.images.size)


@cache
def _measured_slowness(side: int) -> float:
    """The same, from the features of MobileNetV2 for panels of this side."""
    import torch

    from casewise.models.linear import build_linear
    from casewise.models.threads import on_threads

    mobilenet = next(encoder for encoder in known_encoders() if encoder.name == "mobilenet_v2")
    bank = {"encoders": [{"name": mobilenet.name}], "channels": 3, "specs": None}
    with torch.random.fork_rng(devices=[]):  # its random weights change no other random numbers
        network = build_linear(mobilenet.name, 1, bank, {"side": side}).eval()
    panels = torch.full((TRIED, 3, side, side), 0.5)
    with on_threads(1), torch.inference_mode():
        ends = [time.monotonic()]
        for _ in range(REPEATS):
            network.features(panels)
            ends.append(time.monotonic())
    # the first time takes longer, and others may be interrupted
    return float(min(np.diff(ends)) / (TRIED * side**2 / 1e6 * mobilenet.seconds))
