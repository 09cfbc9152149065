"""A trained model for new cases: all networks and folds of a run folder, or the network of one folder."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.console import Show, Silent
from casewise.errors import CasewiseError, RunError
from casewise.inference.bundle import Bundle
from casewise.inference.new_cases import prepare_new_cases, write_table
from casewise.inference.predictor import Predictor
from casewise.inference.run_members import members_of
from casewise.run_folder import JobFolder, JsonFile, RunFolder
from casewise.study.learners import learner_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

# What the errors of a study say of its columns, and what is said in place of it where a table is predicted.
COLUMN_HINTS = {
    re.compile(r", or write `[^`]*columns: \{(\w+): ([^`}]*)\}+` in the study"): r', or give `columns={"\1": "\2"}`',
    re.compile(r"columns: (\w+) is (.*?), which is not a column of the table\."): (
        r'columns: \1 is \2, which is not a column of the table. If it has another name there, give `columns={"\1": '
        r'"NAME"}`.'
    ),
}
IN_STUDY = re.compile(r", or write `[^`]*` in the study")


@dataclass(frozen=True)
class TrainedModel:
    """The trained networks of a study; each network predicts the mean over its folds.

    `decisions` are the rules of grades with their thresholds by learner (see `casewise.predictions.decisions`).
    """

    folder: Path
    members: tuple[Bundle, ...]
    decisions: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """The names of the predicted targets."""
        return [str(output["name"]) for output in self.members[0].outputs]

    @property
    def _reader(self) -> Bundle:
        """The network by whose settings new cases are read; other learners derive their own from these."""
        return next((member for member in self.members if learner_named(member.model).by_steps), self.members[0])

    def predict(
        self,
        cases: Path | str | pd.DataFrame,
        *,
        columns: Mapping[str, str] | None = None,
        root: Path | str | None = None,
        store: Path | str | None = None,
        show: Show | None = None,
    ) -> pd.DataFrame:
        """Predict new cases; labels are neither needed nor read.

        Args:
            cases: a table (CSV, Parquet or a data frame) with the columns of the training table other than the
                labels, or a folder of photographs.
            columns: standard name -> the table's column, such as `{"path": "file", "subject": "patient"}`; the others
                are those of the study.
            root: the folder that paths in the table are relative to; by default the table's own, and for a data frame
                the working directory.
            store: a folder for the prepared images, to be used again; by default a temporary one.
            show: where progress is reported.

        Returns:
            One row for each network, case, region or image, and target or score of the study: `learner` (the network),
            `case`, `subject`, `visit`, `region`, `image`, `target`, `prediction`, for classes the probability of each,
            by name, and `distance` from the training features: 1 is the distance that one in twenty held-out cases of
            the study exceeds. NaN where a network gives none; a warning then says why.

        Raises:
            CasewiseError: the table has problems, or images cannot be read; every problem is named.
        """
        import pandas as pd

        from casewise.predictions.decisions import apply_thresholds
        from casewise.predictions.scores import apply_scores
        from casewise.predictions.table import mean_over_folds
        from casewise.study.scores import study_scores

        with tempfile.TemporaryDirectory() as temporary:
            bundle = _with_columns(self._reader, columns or {})
            table = write_table(cases, bundle, Path(temporary))
            if root is None:
                root = Path.cwd() if table.is_relative_to(temporary) else table.parent
            study = bundle.study(table, Path(root).absolute())
            try:
                new = prepare_new_cases(study, Path(store) if store else Path(temporary), show or Silent())
            except CasewiseError as error:
                # there is no study file to write into, and the file of a data frame is one that nobody has seen
                text = str(error)
                for pattern, hint in COLUMN_HINTS.items():
                    text = pattern.sub(hint, text)
                text = IN_STUDY.sub("", text)
                if table.is_relative_to(temporary):
                    text = text.replace(str(table), "cases").replace(table.name, "cases")
                raise type(error)(text) from error
            rows = [
                Predictor.from_bundle(member).predict_cases(study, new.cohort.panels, new.store, stage="external")
                for member in self.members
            ]
            means = apply_scores(
                apply_thresholds(mean_over_folds(pd.concat(rows, ignore_index=True)), self.decisions),
                study_scores(study),
                missing_regions=study.missing_regions,
                regions=study.regions,
            )
            paths = new.cohort.images.set_index(new.cohort.images["image"].astype(str))["path"].astype(str)
        means["image"] = means["image"].where(means["image"] == "", means["image"].map(paths))
        return self._named(means)

    def _named(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictions with names of classes instead of their numbers."""
        classes = {output["name"]: output["classes"] for output in self.members[0].outputs}
        table = rows[["model", "case", "subject", "visit", "region", "image", "target"]].rename(
            columns={"model": "learner"}
        )
        table["prediction"] = [
            classes[target][int(value)] if classes.get(target) and not math.isnan(value) else value
            for target, value in zip(rows["target"], rows["y_pred"], strict=True)
        ]
        for target, names in classes.items():
            target_rows = rows["target"] == target
            for code, name in enumerate(names):
                table.loc[target_rows, f"probability of {name}"] = rows.loc[target_rows, f"p{code}"]
        return table.assign(distance=rows["distance"])


def load_bundle(folder: Path | str) -> TrainedModel:
    """Load the trained networks of a run folder, or the one network in a folder of weights and facts.

    Raises:
        RunError: there is no trained network, networks of a run are missing or do not predict the same, or it is a
            comparison by image.
    """
    folder = Path(folder)
    job = JobFolder(folder)
    is_job = job.facts.exists() or job.weights.exists()
    members = tuple(Bundle.open(member.path) for member in ([job] if is_job else members_of(RunFolder(folder))))
    if any(member.origin.get("comparison_only") for member in members):
        raise RunError(
            f"{folder} holds a comparison of splits by image: its networks were trained on subjects that they are "
            "tested on. Take the networks of the study itself."
        )
    first = members[0]
    different = next((m for m in members if _targets(m) != _targets(first)), None)
    if different:
        raise RunError(f"{different.folder} and {first.folder} do not predict the same targets.")
    return TrainedModel(folder, members, _decisions(job.decisions if is_job else RunFolder(folder).decisions, members))


def _decisions(file: JsonFile, members: tuple[Bundle, ...]) -> dict[str, Any]:
    """The rules of grades with their thresholds; without a file, those that need none.

    Raises:
        RunError: a rule has tuned thresholds, and their file is missing or damaged.
    """
    from casewise.predictions.decisions import ALL, half_way

    if file.exists():
        return file.read()
    records: dict[str, Any] = {}
    for output in members[0].outputs:
        rule = members[0].settings["targets"].get(output["name"], {}).get("decision")
        if rule == "kappa":
            raise RunError(
                f"{file.path} is missing: the grades of {output['name']} are decided by thresholds that it holds. Copy "
                "it from the folder of the run."
            )
        if rule == "mean":
            limits = {ALL: half_way(len(output["classes"]) - 1).tolist()}
            records[output["name"]] = {"rule": rule, "thresholds": {member.model: limits for member in members}}
    return records


def _with_columns(bundle: Bundle, columns: Mapping[str, str]) -> Bundle:
    """The bundle that reads other columns of a table than its study did."""
    return replace(bundle, settings={**bundle.settings, "columns": {**bundle.settings["columns"], **columns}})


def _targets(bundle: Bundle) -> list[tuple[object, ...]]:
    return [(output["name"], output["kind"], output["classes"]) for output in bundle.outputs]
