"""The network and the training of a study without a preset: the only place that decides them.

A planned recipe would replace `default_recipe` here; nothing else of `casewise init` knows networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from casewise.study.weight_files import is_present

# In order of preference: small enough to be trained on a CPU in minutes.
SMALL_PRETRAINED = ("mobilenet_v2", "resnet18", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x1_0")
UNTRAINED = "cnn"
# From so many subjects on a part of them is kept as the test set.
MANY_SUBJECTS = 300
_FOLDS = 5
# Images times epochs of one network.
_IMAGE_STEPS = 8_000


@dataclass(frozen=True)
class DataFacts:
    """What decides the recipe: numbers of subjects, of images, and of the subjects of the rarest class (or 0)."""

    subjects: int
    images: int
    rarest: int = 0
    scans: bool = False
    grey: bool = False
    given_split: bool = False


def available_weights() -> str:
    """The first of the small networks whose pretrained weights are on this computer; '' if there are none."""
    return next((name for name in SMALL_PRETRAINED if is_present(name)), "")


def default_recipe(facts: DataFacts, weights: str) -> list[str]:
    """The lines of a study file on images, split, network and training; `weights` as from `available_weights`.

    The number of epochs is fixed, so that no case decides when training stops.
    """
    lines = []
    images = [f"size: {64 if facts.scans else 128 if weights else 96}"]
    images += ["channels: grey"] if facts.grey and not facts.scans else []
    lines.append(f"images: {{{', '.join(images)}}}")
    if facts.scans:
        lines.append("panels: {by: case, grid: 3x3}  # nine neighbouring slices in one picture")
    else:
        lines.append("panels: {rotate: 10, brightness: 0.1, contrast: 0.1}  # random changes in training")
    if not facts.given_split:
        folds = max(2, min(_FOLDS, facts.rarest or facts.subjects))
        test = "20%" if facts.subjects >= MANY_SUBJECTS else "0"
        lines.append(f"split: {{test: {test}, folds: {folds}}}  # by subject")
    if weights:
        lines += [
            "# A small network with pretrained weights, which are on this computer.",
            f"backbones: [{weights}]",
            *_recipe(
                f"lr: 0.0003, epochs: {_epochs(facts, 8)}, head: probe, batch_norm: keep_statistics, dropout: 0.2"
            ),
        ]
    else:
        lines += [
            "# NO PRETRAINED WEIGHTS are on this computer: a small network starts from random weights. Pretrained ones "
            "nearly always do better: with a network connection, write `backbones: [mobilenet_v2]` and `weights: "
            "pretrained`; or put mobilenet_v2.safetensors into a folder and name it in CASEWISE_WEIGHTS.",
            f"backbones: [{UNTRAINED}]",
            "weights: random",
            *_recipe(f"lr: 0.001, epochs: {_epochs(facts, 20)}"),
        ]
    return [*lines, "evaluation: {response: false}  # true: also the change from the first visit"]


def _epochs(facts: DataFacts, most: int) -> int:
    """As many epochs as take some minutes on a CPU."""
    return max(5, min(most, _IMAGE_STEPS // facts.images))


def _recipe(own: str) -> list[str]:
    settings = f"{own}, optimizer: adamw, weight_decay: 0.01, schedule: one-cycle, batch_size: 16"
    return ["recipe:", *(f"  {setting}" for setting in settings.split(", ")), "  early_stopping: {monitor: none}"]
