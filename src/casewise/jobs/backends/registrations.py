"""What users have registered, for processes that run jobs of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.metrics.registry import added_metrics, metric_names, register_metric
from casewise.modalities.registry import modality_of, register
from casewise.study.learners import added_learners, register_learner
from casewise.targets.registry import added_kinds, kind_names, register_kind

if TYPE_CHECKING:
    from casewise.jobs.fitting import Fitter
    from casewise.metrics.records import Metric
    from casewise.modalities.base import Modality
    from casewise.models.build_model import Builder
    from casewise.models.outputs import NetworkKind
    from casewise.study.learners import Learner
    from casewise.study.schema import Study
    from casewise.targets.registry import TargetKind


@dataclass(frozen=True)
class Registrations:
    """The user's registrations and the study's modality, for processes that run jobs of the study."""

    modality: Modality
    kinds: list[TargetKind]
    network_kinds: dict[str, NetworkKind]
    metrics: list[Metric]
    learners: list[Learner]
    builders: dict[str, Builder]
    fitters: dict[str, Fitter]

    @classmethod
    def of(cls, study: Study) -> Registrations:
        """Collect the registrations of this process."""
        from casewise.jobs.fitting import FITTERS
        from casewise.models.build_model import BUILDERS
        from casewise.models.outputs import NETWORK_KINDS

        kinds, learners = added_kinds(), added_learners()
        network_kinds = {kind.name: NETWORK_KINDS[kind.name] for kind in kinds if kind.name in NETWORK_KINDS}
        builders = {learner.kind: BUILDERS[learner.kind] for learner in learners}
        fitters = {learner.kind: FITTERS[learner.kind] for learner in learners}
        return cls(modality_of(study), kinds, network_kinds, added_metrics(), learners, builders, fitters)

    def register(self) -> None:
        """Repeat the registrations in another process, except those that importing their modules has made."""
        from casewise.jobs.fitting import FITTERS
        from casewise.models.build_model import BUILDERS
        from casewise.models.outputs import NETWORK_KINDS

        register(self.modality)
        BUILDERS.update(self.builders)
        FITTERS.update(self.fitters)
        for learner in self.learners:
            register_learner(learner)
        for kind in self.kinds:
            if kind.name not in kind_names():
                register_kind(kind)
        NETWORK_KINDS.update(self.network_kinds)
        for metric in self.metrics:
            if metric.name not in metric_names():
                register_metric(metric)
