"""The saliency maps of one case, as arrays and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from casewise.plugins.explain.outputs import CaseExplanation
    from casewise.plugins.explain.overlays import FigureRow
    from casewise.run_folder import RunFolder


@dataclass(frozen=True, eq=False, repr=False)
class CaseMaps:
    """The saliency maps of one case by several networks.

    Attributes:
        case: the case.
        target: the target whose prediction is explained.
        networks: by network, the maps and predictions of each panel of the case.
        rows: the panels that the figure shows.
    """

    case: str
    target: str
    networks: dict[str, CaseExplanation]
    rows: list[FigureRow]

    def map(self, network: str | None = None, panel: int = 0, sequence: str = "") -> np.ndarray:
        """The map (H, W) on one panel, from 0 to 1, of a baseline from −1 to 1; of volumes, on the named sequence.

        Args:
            network: one of `networks`; by default the first.
            panel: the number of the panel, from 0.
            sequence: of volumes; by default the first.

        Raises:
            CasewiseError: there is no such network or panel.
        """
        explained = self._network(network)
        return explained.map_of(self._panel(explained, panel), sequence or explained.sequences[0])

    def picture(self, network: str | None = None, panel: int = 0, sequence: str = "") -> np.ndarray:
        """The panel as the network sees it, 8 bits: (H, W, 3) of images, (H, W) of a sequence."""
        explained = self._network(network)
        return explained.picture_of(self._panel(explained, panel), sequence or explained.sequences[0])

    @property
    def predictions(self) -> pd.DataFrame:
        """What each network predicted for each panel: `learner`, `panel`, `reference`, `prediction`, `correct`."""
        import pandas as pd

        cells = [
            (network, row.name.partition("\n")[2], row.reference, prediction, row.correct[network])
            for row in self.rows
            for network, prediction in row.predicted.items()
        ]
        return pd.DataFrame(cells, columns=["learner", "panel", "reference", "prediction", "correct"])

    def figure(self) -> Figure:
        """The panels (rows) with the map of each network (columns)."""
        from casewise.analysis.plots import for_notebooks
        from casewise.plugins.explain.overlays import side_by_side

        return for_notebooks(side_by_side(self.rows))

    def __repr__(self) -> str:
        methods = ", ".join(f"{name} ({explained.method})" for name, explained in self.networks.items())
        return f"maps of {self.target} of case {self.case} by {methods}"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The figure, for notebooks."""
        from casewise.analysis.plots import png

        return png(self.figure())

    def _network(self, name: str | None) -> CaseExplanation:
        from casewise.errors import nearest

        if name is not None and name not in self.networks:
            raise CasewiseError(
                f"The maps are of {', '.join(self.networks)}, not of {name[:80]!r}.{nearest(name, self.networks)}"
            )
        return self.networks[name] if name else next(iter(self.networks.values()))

    def _panel(self, explained: CaseExplanation, panel: int) -> int:
        if not 0 <= panel < len(explained.maps):
            raise CasewiseError(f"The case {self.case} has panels 0 to {len(explained.maps) - 1}, not {panel}.")
        return panel


def explain_case(folder: RunFolder, case: str, networks: Sequence[str], *, map_size: int) -> CaseMaps:
    """The maps of one case of a finished run; files are read, and missing prepared images are made again.

    Raises:
        CasewiseError: there is no such case or network, or files are missing or have changed.
    """
    from casewise.console import default_show
    from casewise.pipeline.finished import FinishedRun
    from casewise.plugins.explain.case_selection import explain_target
    from casewise.plugins.explain.outputs import figure_rows
    from casewise.plugins.explain.results import check_networks, named_cases
    from casewise.plugins.explain.run import explain_cases

    folder.check_finished()
    with folder.lock():
        run = FinishedRun.open(folder)
        models, (name,) = check_networks(run, networks), named_cases(run, [case])
        explanations = explain_cases(run, models, [name], map_size, default_show())[name]
        rows = figure_rows(run, name, explanations)
    return CaseMaps(name, explain_target(run).target, {e.model: e for e in explanations}, rows)
