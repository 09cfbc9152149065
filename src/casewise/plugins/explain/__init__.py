"""Saliency maps of a finished run: computed, mapped back to the original images, shown, and measured against masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from casewise.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from casewise.inference.bundle import Bundle
    from casewise.inference.predictor import Predictor
    from casewise.modalities.base import PreparedCohort
    from casewise.plugins.explain.methods.target import ExplainTarget
    from casewise.plugins.explain.new_cases import OriginalMap
    from casewise.plugins.explain.results import Record
    from casewise.plugins.explain.run import CaseMaps
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


class _Explain(Plugin):
    name = extra = "explain"
    report = "casewise.plugins.explain.report_section"
    command = ("explain", "Compute saliency maps of a run, and measure them.")

    def stored(self, folder: RunFolder) -> Record | None:
        from casewise.plugins.explain.results import read_results

        return read_results(folder)

    def explain_case(self, folder: RunFolder, case: str, networks: Sequence[str], *, map_size: int) -> CaseMaps:
        from casewise.plugins.explain.run import explain_case

        return explain_case(folder, case, networks, map_size=map_size)

    def explainable(self, members: Sequence[Bundle]) -> list[str]:
        from casewise.plugins.explain.new_cases import explainable

        return explainable(members)

    def target_of(self, study: Study, name: str) -> ExplainTarget:
        from casewise.plugins.explain.methods.target import ExplainTarget

        return ExplainTarget.of_outcome(study, name)

    def explain_new(
        self,
        predictors: Iterable[Predictor],
        prepared: PreparedCohort,
        target: Any,
        predicted: pd.DataFrame,
        *,
        side: int,
    ) -> list[OriginalMap]:
        from casewise.plugins.explain.new_cases import explain_new

        return explain_new(predictors, prepared, target, predicted, side=side)

    def overlay(self, picture: np.ndarray, values: np.ndarray, *, signed: bool) -> np.ndarray:
        from casewise.plugins.explain.overlays import overlay

        return overlay(picture, values, signed=signed)


plugin = _Explain()
