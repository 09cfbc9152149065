"""A finished run: its tables, figures and trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import Suggesting

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.plots import Plots
    from casewise.evaluation.results import Results
    from casewise.inference.new_cases import NewInput
    from casewise.pipeline.finished import FinishedRun
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


@dataclass(frozen=True, eq=False, repr=False)
class Run(Suggesting):
    """A finished run as tables, figures and a trained model.

    Attributes:
        finished: its study, results and files as they are.
    """

    finished: FinishedRun

    def __post_init__(self) -> None:
        """Read the predictions, which another run in the folder could replace later."""
        _ = self.finished.predictions

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Open a finished run.

        Raises:
            RunError: there is no such folder, it holds no finished run or only the comparison by image of one, or a
                file of it is damaged.
        """
        from casewise.pipeline.finished import FinishedRun

        run = FinishedRun.open(folder)
        run.files.check_reported()
        return cls(run)

    # What the run is about.

    @property
    def study(self) -> Study:
        """The study with every setting in force."""
        return self.finished.study

    @property
    def results(self) -> Results:
        """The content of `metrics.json`."""
        return self.finished.results

    @property
    def files(self) -> RunFolder:
        """Every file of the run folder, by name."""
        return self.finished.files

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.files.path

    @property
    def report(self) -> Path:
        """The path of the report, an HTML page."""
        return self.files.report.path

    @property
    def rows(self) -> pd.DataFrame:
        """The content of `predictions.parquet`, with classes as numbers; `predictions` is easier to read."""
        return self.finished.predictions

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """The networks that could not be trained and have no part in the results: for each the reason by fold."""
        return self.finished.left_out

    @property
    def learners(self) -> list[str]:
        """The names of the networks, of the baselines, and of the learners that combine them."""
        return self.finished.learners

    @property
    def targets(self) -> list[str]:
        """The names of the predicted targets and scores, the primary outcome first."""
        names = list(dict.fromkeys(map(str, self.rows["target"])))
        return sorted(names, key=lambda name: name != self.study.primary_outcome)

    @property
    def stages(self) -> list[str]:
        """The stages with predictions: `oof` (out of fold), `test`, `external`; also `training`, `validation`."""
        return list(dict.fromkeys(map(str, self.rows["stage"])))

    @property
    def headline(self) -> str:
        """One sentence on the primary outcome."""
        from casewise.report.caveats import result_line

        return result_line(self.study, self.results)

    @property
    def compared(self) -> str:
        """How the reported model compares with anything simpler: the verdicts of the report's first screen."""
        from casewise.report.context import read_context
        from casewise.report.first_screen import rivals_line

        return rivals_line(read_context(self.folder)) if self.headline else ""

    # Tables.

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row for each learner, target and case (and region or image, if the target has that level).

        Columns: `learner`, `stage`, `target`, `case`, `subject`, `visit`, `day`, `region`, `image`, `fold` (whose
        networks predicted the case; missing for the mean over all folds), `reference`, `prediction` (numbers, or the
        names of classes), `probability of NAME` for each class, the prediction interval `low` to `high` of a number and
        the prediction `set` of a class (not out of fold, where they were calibrated), and `distance` from the training
        cases.
        """
        from casewise.analysis.tables import predictions_table

        return predictions_table(self.rows, self.study, self.files.conformal.read())

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every metric of all cases: one row for each learner, target, stage and metric; a part of `table`.

        Columns: `learner`, `target` (`target[region]` for one region), `stage`, `metric` (`metric[class]` for one
        class), `value`, the interval `low` to `high`, `n_subjects`, `n_cases`, `rough` (few subjects) and, where a
        value is undefined, the `reason`.
        """
        from casewise.evaluation.figures import Estimate

        table = self.results.figures.select(population="", contrast="").frame()
        return table[["learner", "target", "stage", "metric", *Estimate.__dataclass_fields__]]

    def table(self) -> pd.DataFrame:
        """Every figure of the run: the metrics, also by source, group, fold and seed, and differences.

        The columns are those of `metrics`, with `population` and `group` (empty for all cases; `by age` and a band of
        ages), and `contrast`: what is subtracted, such as another learner, or how groups are summarised (`mean`).
        """
        return self.results.figures.frame()

    @property
    def cohort(self) -> pd.DataFrame:
        """The cohort as read: one row for each image, with its case and every column of the table."""
        from casewise.analysis.tables import cohort_table

        return cohort_table(self.finished.images, self.study)

    @property
    def splits(self) -> pd.DataFrame:
        """One row for each subject: `subject`, `side` (`train` or `test`) and `fold`, missing in the test set."""
        from casewise.analysis.tables import splits_table

        return splits_table(self.finished.splits)

    @property
    def findings(self) -> pd.DataFrame:
        """The findings of the audit: `id`, `level`, `sentence`, `remedy`, and the reason if the study `accepted` it."""
        from casewise.analysis.tables import findings_table

        return findings_table(self.finished.audit)

    # Figures, explanations and new cases.

    @property
    def plot(self) -> Plots:
        """The figures of the report, as matplotlib figures: `run.plot.roc()` and others."""
        from casewise.analysis.plots import Plots

        return Plots(self)

    def explain(self, case: str, *, learners: Sequence[str] | str = (), map_size: int = 0) -> Any:
        """The saliency maps of one case, `CaseMaps`; nothing is written.

        Args:
            case: as `SUBJECT/VISIT`, or a subject who has one case.
            learners: the networks and baselines to explain; by default all of the study.
            map_size: the least number of cells a side of a CNN's map; 0 for a stride of 16 pixels.

        Raises:
            CasewiseError: there is no such case or network, or the images are missing or have changed.
        """
        from casewise.errors import CasewiseError
        from casewise.inference.explainer import explainer

        maps = explainer()
        if maps is None:
            raise CasewiseError("Saliency maps need the plugin 'explain' of casewise, which is not installed here.")
        networks = [learners] if isinstance(learners, str) else learners
        return maps.explain_case(self.files, case, networks, map_size=map_size)

    def predict(
        self,
        cases: NewInput,
        *,
        learner: str = "headline",
        columns: Mapping[str, str] | None = None,
        root: Path | str | None = None,
        pattern: str = "",
    ) -> pd.DataFrame:
        """Predict new cases with the reported model; labels are neither needed nor read.

        The arguments and the columns are the same as of `load_bundle(run.folder).predict`.

        Raises:
            CasewiseError: the cases as a whole cannot be read.
        """
        from casewise.console import default_show
        from casewise.inference.model import load_bundle

        model, show = load_bundle(self.folder), default_show()
        return model.predict(cases, learner=learner, columns=columns, root=root, pattern=pattern, show=show)

    def bundle(self, output: Path | str, *, key: Path | str | None = None) -> Path:
        """Write the trained model as one zip file, which `load_bundle`, `casewise predict` and `casewise serve` take.

        Args:
            output: the file, ending in `.zip`.
            key: the file of a private key (OpenSSH, ed25519) by which it is signed; needs the extra `sign`.

        Returns:
            The path of the file.

        Raises:
            CasewiseError: the file cannot be written, or the key cannot be used.
        """
        from casewise.console import default_show
        from casewise.pipeline.bundle import archive_run

        return archive_run(self.folder, Path(output), default_show(), key=Path(key) if key else None)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}): {self.headline or 'nothing was evaluated'}"

    def _repr_html_(self) -> str:
        """The study, the headline and a link to the report, for notebooks."""
        from casewise.errors import counted

        data = " (synthetic data)" if self.study.synthetic else ""
        numbers = {name: self.rows[name].nunique() for name in ("subject", "case")} | {"learner": len(self.learners)}
        counts = ", ".join(counted(number, noun) for noun, number in numbers.items())
        link = escape(self.report.resolve().as_uri(), quote=True)
        return (
            f"<p><b>{escape(self.study.name)}</b>{data}: {counts}</p><p>{escape(self.headline)}</p>"
            f'<p><a href="{link}">{escape(str(self.report))}</a></p>'
        )
