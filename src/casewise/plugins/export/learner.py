"""A trained learner with what its graph needs: the networks of its folds, their inputs, and the meaning of outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.modalities.registry import modality_of
from casewise.models.fusion import Fused
from casewise.models.linear import FeatureBank
from casewise.plugins.export.command import check_names
from casewise.plugins.export.formats import Names
from casewise.plugins.export.graph import LearnerGraph

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.modalities.base import FittedPreprocessing
    from casewise.models.backbones import Network
    from casewise.models.outputs import Output
    from casewise.study.schema import Study

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class TrainedLearner:
    """A learner with the trained networks of its folds.

    Attributes:
        fitted: the different preparations of its folds; the graph has an input for each.
        reads: for each fold the number of its preparation in `fitted`.
    """

    members: tuple[Bundle, ...]
    networks: tuple[Network, ...]
    fitted: tuple[FittedPreprocessing, ...]
    reads: tuple[int, ...]

    @classmethod
    def of(cls, members: Sequence[Bundle]) -> TrainedLearner:
        """The learner of these networks, one for each fold."""
        fitted: list[FittedPreprocessing] = []
        for member in members:
            if member.fitted not in fitted:
                fitted.append(member.fitted)
        reads = tuple(fitted.index(member.fitted) for member in members)
        networks = tuple(member.load().requires_grad_(False) for member in members)
        return cls(tuple(members), networks, tuple(fitted), reads)

    @property
    def name(self) -> str:
        """The name of the learner."""
        return self.members[0].model

    @property
    def file_stem(self) -> str:
        """The name of its file without an ending."""
        return re.sub(r"[^\w.@-]+", "_", self.name)

    @cached_property
    def study(self) -> Study:
        """The settings of reading and preparation, as this learner sees them; those of augmentation are left out."""
        settings = self.members[0].settings
        panels = {key: settings["panels"][key] for key in ("by", "grid", "pooling")}
        member = replace(self.members[0], settings={**settings, "panels": panels})
        return member.study(Path("cases.csv")).of_learner(self.name)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The targets, in the order of the graph's outputs."""
        return self.members[0].output_records

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The range of each target."""
        return [(float(record["range"][0]), float(record["range"][1])) for record in self.members[0].outputs]

    @property
    def units(self) -> list[float]:
        """What a difference in each target is divided by: 1, or the deviation of its labels where that is larger."""
        return [
            max([1.0, *record["target_std"]] if output.network_kind.standardised else [1.0])
            for record, output in zip(self.members[0].outputs, self.outputs, strict=True)
        ]

    @property
    def flips(self) -> bool:
        """Whether predictions are averaged with those of mirrored panels."""
        return bool(self.members[0].settings["test_time_augmentation"])

    @property
    def bags(self) -> bool:
        """Whether a panel is a set of images."""
        return self.study.panels.bags

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of a panel, in order."""
        names = modality_of(self.study).channels(self.study, self.name)
        return COLOURS if names == ("",) else names

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of a panel, or of an image of a set."""
        panels, size = self.study.panels, self.study.images.size
        rows, columns = (1, 1) if self.bags else (panels.rows, panels.columns)
        return len(self.channels), rows * size, columns * size

    @property
    def may_lack_sequences(self) -> bool:
        """Whether a sequence of a panel may be missing."""
        bodies: list[Any] = [network.body for network in self.networks]
        return self.channels != COLOURS and all(
            body.missing_token is not None if isinstance(body, Fused) else isinstance(body, FeatureBank)
            for body in bodies
        )

    @property
    def names(self) -> Names:
        """The names of the graph's inputs and outputs; those of targets with other signs than letters as `_`."""
        inputs = ["panels"] if len(self.fitted) == 1 else [f"panels_{n}" for n in range(1, len(self.fitted) + 1)]
        taken = list(inputs)
        for output in self.outputs:
            stem = name = re.sub(r"\W", "_", output.name) or "output"
            number = 2
            while name in taken:
                name, number = f"{stem}_{number}", number + 1
            taken.append(name)
        return Names(tuple(inputs), tuple(taken[len(inputs) :]))

    def graph(self) -> LearnerGraph:
        """The learner as one graph."""
        return LearnerGraph(self.name, self.networks, self.reads, self.outputs, self.ranges, flips=self.flips).eval()


def selected_members(members: Sequence[Bundle], names: Sequence[str]) -> list[list[Bundle]]:
    """The networks of the learners of these names, by default of all, learner by learner.

    Raises:
        CasewiseError: there is no such learner, or it combines others.
    """
    by_learner: dict[str, list[Bundle]] = {}
    for member in members:
        by_learner.setdefault(member.model, []).append(member)
    check_names(names, by_learner)
    return [by_learner[name] for name in by_learner if not names or name in names]
