"""The command `casewise export`, which checks each graph on cases of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casewise.cli.predict import Trust
from casewise.cli.run import Quiet
from casewise.plugins.export import check_names

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.modalities.base import FittedPreprocessing
    from casewise.modalities.dataset import PanelDataset
    from casewise.plugins.export.learner import TrainedLearner
    from casewise.plugins.export.write import Cases, Export
    from casewise.run_folder import RunFolder


def export(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A finished run folder, or a bundle.")],
    to: Annotated[str, typer.Option(help="onnx or torchscript.")],
    output: Annotated[Path, typer.Option(help="The output folder: new, empty, or of an earlier export.")],
    learner: Annotated[
        list[str] | None, typer.Option(help="Name of a network or baseline; repeat for more [default: all].")
    ] = None,
    trust: Trust = None,
    quiet: Quiet = False,
) -> None:
    """Write each learner as one graph, from prepared panels to the mean over its folds, and check it."""
    from casewise.console import Silent, Terminal

    show = Silent() if quiet else Terminal()
    with show.bar("export"):
        written = export_run(model, output, to=to, learners=learner or [], trust=trust, show=show)
    if not quiet:
        print(f"wrote {written.folder}")


def export_run(
    path: Path,
    output: Path,
    *,
    to: str = "onnx",
    learners: Sequence[str] = (),
    trust: Path | None = None,
    show: Show | None = None,
) -> Export:
    """Export the learners of a run folder or a bundle; arguments as of `casewise.plugins.export.write.export_model`.

    Args:
        trust: a public key file; the bundle must be signed with the private key.

    Raises:
        CasewiseError: there is no trained model, it is not signed with the trusted key, or it cannot be exported.
    """
    from contextlib import nullcontext

    from casewise.console import Silent
    from casewise.files import check_folder
    from casewise.run_folder.folder import check_model_path

    bundle = check_model_path(path, trust)
    check_folder(output, ["preprocessing.json"], "an export")  # before torch is loaded
    if bundle:
        check_names(learners, list(dict.fromkeys(entry["learner"] for entry in bundle["members"])))
    from casewise.plugins.export.formats import format_named

    format_named(to)
    from casewise.inference.model import load_bundle
    from casewise.plugins.export.write import export_model
    from casewise.run_folder import RunFolder

    show = show or Silent()
    model = load_bundle(path, trust=trust)
    folder = RunFolder(path)
    is_run = path.is_dir() and folder.study.exists() and folder.splits.exists()
    with folder.lock() if is_run else nullcontext():
        cases, why_random = _run_cases(folder) if is_run else (None, "a bundle holds no cases")
        return export_model(
            model, Path(output), to=to, learners=learners, cases=cases, why_random=why_random, show=show
        )


def _run_cases(folder: RunFolder) -> tuple[Cases | None, str]:
    """Cases spread over the table of the run; None and the reason if table or images cannot be read."""
    import numpy as np

    from casewise.errors import CasewiseError
    from casewise.modalities.registry import modality_of
    from casewise.pipeline.finished import FinishedRun
    from casewise.plugins.export.write import MOST_PANELS

    try:
        prepared = FinishedRun.open(folder).prepared
    except CasewiseError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return None, f"the cases of the run cannot be read ({reason})"
    panels = prepared.cohort.panels
    rows = np.unique(np.linspace(0, len(panels) - 1, min(MOST_PANELS, len(panels))).round().astype(int))

    def cases(learner: TrainedLearner, fitted: FittedPreprocessing) -> PanelDataset:
        study = prepared.study.of_learner(learner.name)
        return modality_of(study).dataset(prepared.store, study, panels.iloc[rows], None, fitted)

    return cases, ""
