"""The tables and figures of a publication: numbers of the typed results, published values beside them, and reasons."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from casewise.analysis.run import Run
from casewise.errors import CasewiseError, RunError
from casewise.evaluation.figures import FOLD, Estimate
from casewise.evaluation.results import ResponseRates, Trial, TrialVisit
from casewise.plugins.paper import designs
from casewise.plugins.paper.command import write_paper
from casewise.plugins.paper.contents import Paper, joined
from casewise.plugins.paper.latex import latex
from casewise.report.blocks import Cell, Row, Table
from casewise.report.context import SIDES
from casewise.report.tables import MetricFormat
from casewise.study.loading import read_study
from casewise.study.presets.published import publication
from tests.conftest import TINY

FORMS = ["pdf", "png", "svg"]


@pytest.fixture(scope="module")
def films(chest_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "films"
    write_paper([chest_run.folder], folder, references="covid-cxr", grey=True)
    return folder


@pytest.fixture(scope="module")
def visits(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "visits"
    write_paper([served_run], folder)
    return folder


def not_written(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "paper.json").read_text())["not_written"])


def test_a_table_has_the_numbers_of_the_typed_results(chest_run: Any, films: Path) -> None:
    results, tables = Run.open(chest_run.folder).results, films / "tables"
    for stage in results.stages:
        by_learner = {name: results.figures.of(stage, name, "label") for name in results.learners(stage)}
        table = pd.read_csv(tables / f"results-label-{stage}.csv").set_index(["learner", "metric"])
        assert {name for name, _ in table.index} == {name for name, found in by_learner.items() if found}
        for learner, by_metric in by_learner.items():
            for metric, figure in by_metric.items():
                for cell in ("value", "low", "high", "n_subjects", "rough"):
                    found, expected = table.at[(learner, metric), cell], getattr(figure, cell)
                    assert found == expected or (expected is None and np.isnan(found))
        counts = pd.read_csv(tables / f"confusion-label-{stage}.csv")
        report = pd.read_csv(tables / f"report-label-{stage}.csv").set_index(["learner", "class"])
        for learner, by_target in results.classes[stage].items():
            entry = by_target["label"]
            assert counts.loc[counts["learner"] == learner, "count"].tolist() == np.ravel(entry.confusion).tolist()
            assert report.loc[learner, "support"].tolist() == entry.support
    folds = pd.read_csv(tables / "folds.csv").set_index(["target", "learner", "metric"])
    for end in ("mean", "sd"):
        for cell, by_metric in results.figures.select(population=FOLD, contrast=end).cells.items():
            assert all(folds.at[(*cell[2:0:-1], metric), end] == figure.value for metric, figure in by_metric.items())


def test_networks_are_listed_with_the_parameters_that_were_trained(chest_run: Any, films: Path) -> None:
    job, layers = Run.open(chest_run.folder).finished.jobs[0], pd.read_csv(films / "tables/layers-test_resnet.csv")
    assert (layers["parameters"].sum(), layers["output"].iloc[-1]) == (job["parameters"], "3")


def test_labels_are_those_of_each_side(chest_run: Any, films: Path) -> None:
    labels = pd.read_csv(films / "tables/labels.csv").set_index(["side", "level"])["n"]
    sides = {side["code"]: side["cases"] for side in chest_run.results.participants.sides}
    assert sides["test"] == labels["test"].sum() > 0
    assert (labels["train"] + labels["test"]).to_dict() == labels["all"].to_dict()


def test_every_figure_has_three_forms_and_what_is_missing_has_a_reason(films: Path, visits: Path) -> None:
    for folder, there, missing in (
        (films, {"preparation", "examples", "distributions", "learning", "confusion", "roc"}, {"fit", "trajectories"}),
        (visits, {"preparation", "distributions", "fit", "trajectories", "learning"}, {"confusion", "examples", "roc"}),
    ):
        files = sorted((folder / "figures").iterdir())
        assert {file.stem for file in files} >= there
        assert all(sorted(f.suffix[1:] for f in files if f.stem == name) == FORMS for name in there)
        assert {f"figure {name}" for name in missing} <= {n for n, reason in not_written(folder).items() if reason}
        assert not {file.stem for file in files} & missing
        recorded = json.loads((folder / "paper.json").read_text())["files"]
        assert sorted([*recorded, "paper.json"]) == sorted(
            str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()
        )
    assert "table responders" in not_written(films)
    assert "table trajectories" in not_written(films)


def test_labels_of_numbers_have_quartiles(served_run: Path) -> None:
    table = Paper(Run.open(served_run)).labels().data
    assert list(table.columns[-3:]) == ["median", "lower_quartile", "upper_quartile"]
    assert (table["lower_quartile"] <= table["median"]).all()
    assert (table["median"] <= table["upper_quartile"]).all()


def test_subjects_are_named_only_when_asked(served_run: Path, visits: Path, tmp_path: Path) -> None:
    subjects = set(Run.open(served_run).rows["subject"].astype(str))
    written = [file for file in visits.rglob("*") if file.suffix in (".csv", ".tex", ".svg", ".json")]
    assert not [(file, name) for file in written for name in subjects if re.search(rf"\b{name}\b", file.read_text())]
    table = Paper(Run.open(served_run)).trajectories(names=True).data
    assert set(table["subject"]) <= subjects
    numbered = pd.read_csv(visits / "tables/trajectories.csv")
    np.testing.assert_allclose(numbered["model"], table["model"].astype(float))
    texts = (visits / "tables/trajectories.csv").read_text().splitlines()[1:]
    assert max(len(cell.partition(".")[2]) for line in texts for cell in line.split(",")) <= 6


def test_effects_and_responders_are_those_of_the_trial(served_run: Path) -> None:
    run, figure, other = Run.open(served_run), Estimate(-2.0, -3.0, -1.0), Estimate(0.5, 0.2, 0.8)
    visit = TrialVisit("w1", {"a": 9, "b": 8}, {}, {"b": {"model": figure}})
    rates = {"b": {"w1": ResponseRates(8, {"50": {"model": other}})}}
    trials = {str(run.results.main.stage): Trial("a", visit.subjects, "w0", [visit], {}, {}, {}, rates, rates)}
    trials["all"] = replace(trials[str(run.results.main.stage)], baseline="w00")  # type: ignore[type-var]
    results = replace(run.results, trials=trials)  # type: ignore[type-var]
    paper = Paper(SimpleNamespace(study=run.study, results=results))  # type: ignore[arg-type]
    effect, of_all = paper.effects().data.to_dict("records")
    assert (effect["baseline"], of_all["baseline"]) == ("w0", "w00")
    assert (effect["figure"], effect["arm"], effect["n_subjects"], effect["low"]) == ("effect", "b", 8, -3.0)
    (share,) = paper.responders().data.query("arm == 'b'").to_dict("records")
    everybody = paper.responders().data.query("arm == 'all'")
    by_learner = results.response[str(results.main.stage)]
    assert (share["baseline"], set(everybody["baseline"])) == ("w0", {r.baseline for r in by_learner.values()})
    assert (share["n_subjects"], share["value"], share["rater"]) == (8, 0.5, "model")
    assert "b − a" in set(paper.responders().data["arm"])


def test_subjects_are_described_by_arm(served_run: Path) -> None:
    run = Run.open(served_run)
    with pytest.raises(CasewiseError, match="arm"):
        designs.arms(run)
    images = run.finished.cohort.images
    order = pd.Series(pd.factorize(images["subject"])[0], index=images.index)
    images = images.assign(
        treatment=np.where(order % 2, "drug", "placebo"), age=40.0 + order, sex=np.where(order < 2, "f", "m")
    )
    evaluation = run.study.evaluation.model_copy(update={"arm": "treatment"})
    first = str(images["visit"].iloc[0])
    trials = {"oof": Trial("placebo", {"placebo": 1, "drug": 1}, first, [], {}, {}, {}, {}, {})}
    finished = SimpleNamespace(cohort=SimpleNamespace(images=images))
    table = designs.arms(
        SimpleNamespace(  # type: ignore[arg-type]
            study=run.study.model_copy(update={"evaluation": evaluation}),
            results=replace(run.results, trials=trials),  # type: ignore[type-var]
            rows=run.rows,
            finished=finished,
        )
    ).data.set_index(["characteristic", "level"])
    people = images[images["visit"] == first].drop_duplicates("subject")
    for arm, of_arm in people.groupby("treatment"):
        assert table.at[("subjects", "n"), arm] == str(len(of_arm))
        women = int((of_arm["sex"] == "f").sum())
        assert table.at[("sex, n (%)", "f"), arm] == f"{women} ({women / len(of_arm):.0%})"
        truth = run.rows[(run.rows["target"] == run.study.primary_outcome) & run.rows["case"].isin(of_arm["case"])]
        scores = truth.drop_duplicates("case")["y_true"]
        assert table.loc[(slice(None), ""), arm].iloc[0] == f"{scores.mean():.1f} ({scores.std():.1f})"


def test_published_values_stand_beside_those_of_the_same_learner(chest_run: Any, films: Path, visits: Path) -> None:
    table = pd.read_csv(visits / "tables/published.csv")  # the preset names its publication
    assert len(table) == 4 * (33 + 10)
    assert table.query("learner == 'resnet34' and metric == 'mae'")["published"].tolist() == [3.34, 3.336]
    assert table["value"].isna().all()
    assert set(table["note"]) == {"not a learner of this run"}
    films_of_others = pd.read_csv(films / "tables/published.csv")
    assert len(films_of_others) == 8 * 2 + 8 * 9
    run = Run.open(chest_run.folder)
    paper, named = Paper(run, "covid-cxr"), publication("covid-cxr").results[0]
    ours, stage = paper._counterpart(named, "label", "test_resnet", "accuracy"), run.results.main.stage
    assert ours["value"] == run.results.figures.of(stage, "test_resnet", "label")["accuracy"].value
    assert paper._counterpart(named, None, "test_resnet", "accuracy")["value"] is None


def test_an_unknown_publication_is_refused(tmp_path: Path, phantom: Path, chest_run: Any) -> None:
    (tmp_path / "study.yaml").write_text(
        TINY.format(cohort=phantom).replace("evaluation: {", "evaluation: {references: covid-cx, ")
    )
    with pytest.raises(CasewiseError, match="covid-cxr"):
        read_study(tmp_path / "study.yaml")
    with pytest.raises(CasewiseError, match="covid-cxr"):
        write_paper([chest_run.folder], tmp_path / "out", references="covid-cx")


def test_runs_are_joined(chest_run: Any, served_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"test_resnet": {"accuracy": (0.9, None)}}
    monkeypatch.setattr(Paper, "beside", lambda self, *_: theirs if self.references else {})
    opened = [Run.open(folder) for folder in (chest_run.folder, served_run)]
    papers = [Paper(opened[0], "covid-cxr"), Paper(opened[1])]
    both = joined(papers)
    table = both.data
    assert set(table["run"]) == {"chest", "tiny"}
    assert "Accuracy, published" in both.columns
    for paper in papers:  # the metric that is compared stays, even where only the other run has published values
        single = paper.results(paper.run.study.primary_outcome, paper.stage)
        texts = [
            [row.name, *(cell.text for cell in row.cells)] for row in both.rows if row.name == paper.run.study.name
        ]
        cells = [dict(zip(both.columns, row, strict=True)) for row in texts]
        assert [row["Learner"] for row in cells] == [row.name for row in single.rows]
        assert all(any(row[head] for head in single.columns[1:] if head in row) for row in cells)
        assert {(row["Target"] != "", row["Stage"]) for row in cells} == {(True, SIDES[paper.stage])}
        assert single.caption in both.caption
    for run in opened:
        main = run.results.main
        for row in table[table["run"] == run.study.name].itertuples():
            figures = run.results.figures.of(main.stage, row.learner, main.target)
            assert row.value == figures[row.metric].value or pd.isna(row.value)
    figures, main = opened[0].results, opened[0].results.main
    trained = replace(main, stage="training")  # type: ignore[type-var]
    rows = figures.figures.select(stage=str(main.stage)).placed(stage="training")
    figures = replace(figures, figures=rows, main=trained)  # type: ignore[type-var]
    paper = Paper(SimpleNamespace(study=opened[0].study, results=figures, learners=opened[0].learners), "covid-cxr")  # type: ignore[arg-type]
    assert any("published" in name for name in table)
    assert not any("published" in name for name in joined([paper]).data), "published values are not of training images"


@pytest.mark.parametrize("name", ["fit", "agreement", "bland_altman", "distribution", "learning", "trajectory"])
def test_figures_of_numbers_draw_on_given_axes(served_run: Path, name: str) -> None:
    run = Run.open(served_run)
    given = (run.plot.tracks()[0].subject,) if name == "trajectory" else ()
    draws_on_axes(run, name, *given)


@pytest.mark.parametrize("name", ["roc", "precision_recall", "reliability", "confusion", "distribution", "learning"])
def test_figures_of_classes_draw_on_given_axes(chest_run: Any, name: str) -> None:
    draws_on_axes(Run.open(chest_run.folder), name)


def draws_on_axes(run: Run, name: str, *given: str) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert getattr(run.plot, name)(*given, ax=right) is figure
    assert len(left.get_children()) < len(right.get_children()) or right.child_axes
    assert not left.has_data()
    own = getattr(run.plot, name)(*given)
    assert own is not figure
    assert own.axes


def test_latex_is_balanced_and_escapes_names(films: Path, visits: Path) -> None:
    files = [file for folder in (films, visits) for file in folder.glob("tables/*.tex")]
    assert len(files) > 10
    for file in files:
        text = file.read_text()
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{(l+|(?:>.*\\tabcolsep\})+)\}\n", text)
        shares = [float(share) for share in re.findall(r"([\d.]+)\\linewidth", columns[1])]
        assert not shares or sum(shares) == pytest.approx(1, abs=0.01)  # not wider than the page
        rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(shares or columns[1])}
        assert not re.search(r"(?<!\\)[#_]", text.replace(r"% needs", ""))
    escaped = r"a\_b \& 50\% \{\textbackslash{}x\}\textasciicircum{}\textasciitilde{}\#\$"
    cells = [Cell("0.9", "[0.8, 1.0]"), Cell("1.0", "two subjects")]
    text = latex(Table([r"a_b & 50% {\x}^~#$", "b", "c"], [Row("1", cells)], "Figures."))
    assert escaped in text
    assert "1 & 0.9 [0.8, 1.0] & 1.0 (a)" in text
    assert "(a): two subjects." in text
    assert "longtable" in latex(Table(["a"], [Row("1", [])] * 60, ""))
    assert "\n{[}0, 1] " in latex(Table(["a"], [Row("0", []), Row("[0, 1]", [])], ""))


COMMANDS = re.compile(r"\\([a-zA-Z]+|.)")
KNOWN = set(
    re.findall(
        r"\S+",
        "documentclass usepackage begin end input includegraphics caption label centering clearpage toprule midrule"
        " bottomrule endhead linewidth tabcolsep dimexpr raggedright arraybackslash scriptsize tiny textbackslash"
        " textasciitilde textasciicircum textless textgreater ldots pm times geq leq Delta rightarrow kappa alpha beta"
        " mu circ cdot surd & % $ # _ { } ,",
    )
) | {"\\"}


def check_document(text: str, folder: Path) -> set[str]:
    """The environments of a LaTeX document, all of which must be closed in order; its files must exist.

    There is no LaTeX here: this is a strict reading of what the documents may contain, not a compilation.
    """
    for file in re.findall(r"\\(?:input|includegraphics)\{([^}]*)\}", text):
        assert (folder / file).is_file()
        if file.endswith(".tex"):
            text = text.replace(rf"\input{{{file}}}", (folder / file).read_text())
    text = re.sub(r"(?m)^% needs .*$", "", text)
    assert set(COMMANDS.findall(text)) <= KNOWN
    assert all(ord(letter) < 0x250 for letter in text)  # fonts of LaTeX have these letters
    body = text.partition(r"\begin{document}")[2]
    assert not re.search(r"(?<!\\)[#%^~](?![{\\])", re.sub(r"\$\^[^$]*\$|\\\\", "", body).replace("~", ""))
    paths = re.sub(r"\\(?:includegraphics|label)\{[^}]*\}", "", body)
    assert not re.search(r"(?<!\\)_", paths)
    open_groups, environments = [], set()
    for begin, name, brace in re.findall(r"\\(begin|end)\{([a-z*]+)\}|(?<!\\)([{}])", text.replace(r"\\", "")):
        if name:
            environments.add(name)
        if begin == "end" or brace == "}":
            assert open_groups.pop() == (name or "{")
        else:
            open_groups.append(name or "{")
    assert not open_groups
    packages = set(",".join(re.findall(r"\\usepackage(?:\[[^]]*\])?\{([^}]*)\}", text)).split(","))
    needed = {"longtable": "longtable", "sidewaystable": "rotating"}
    assert {needed[name] for name in environments & set(needed)} <= packages
    assert text.rstrip().endswith(r"\end{document}")
    return environments


def test_documents_of_all_tables_and_figures_are_complete(films: Path, visits: Path) -> None:
    for folder in (films, visits):
        texts = {name: (folder / f"{name}.tex").read_text() for name in ("tables", "figures")}
        assert "tabular" in check_document(texts["tables"], folder)
        assert "figure*" in check_document(texts["figures"], folder)
        included = set(re.findall(r"\\(?:input|includegraphics)\{([^}]*)\}", "".join(texts.values())))
        forms = [*folder.glob("tables/*.tex"), *folder.glob("figures/*.pdf")]
        assert included == {path.relative_to(folder).as_posix() for path in forms}
        assert texts["figures"].count(r"\caption{") == texts["figures"].count(r"\includegraphics")
        captions = re.findall(r"\\caption\{(.*)\}", texts["figures"])
        assert all("Synthetic" in caption for caption in captions)


def test_published_values_keep_their_digits(served_run: Path) -> None:
    values = {"resnet34": {"mae": 3.781, "ccc": 0.9}, "test_resnet": {"mae": 3.788}}
    run = Run.open(served_run)
    stage = str(run.results.main.stage)
    references = {"pasi": values}
    study = run.study.model_copy(
        update={"evaluation": run.study.evaluation.model_copy(update={"references": references})}
    )
    table = Paper(SimpleNamespace(study=study, results=run.results, learners=run.learners)).results("pasi", stage)  # type: ignore[arg-type]
    (row,) = [row for row in table.rows if row.name == "test_resnet"]
    cells = dict(zip(table.columns[1:], row.cells, strict=True))
    assert cells["MAE, published"].text == "3.788"
    paper = Paper(SimpleNamespace(study=study, results=run.results, learners=run.learners, targets=["pasi"]))  # type: ignore[arg-type]
    every = paper.published_values()
    # that of resnet34 stands in the CSV alone
    shown = [cell if isinstance(cell, str) else cell.text for row in every.rows for cell in row.cells]
    assert shown[:3] == ["test_resnet", "MAE", "3.788"]
    assert len(every.rows) == 1
    assert sorted(every.data["published"]) == [0.9, 3.781, 3.788]
    write = MetricFormat(points=1)
    assert (write.published("ccc", 0.9), write.published("mae", 3.8)) == ("0.9", "3.8")
    assert (write.published("accuracy", 0.95), write.published("accuracy", 0.9493)) == ("95 %", "94.93 %")


def test_responders_of_one_visit_have_their_denominators(served_run: Path) -> None:
    run = Run.open(served_run)
    table = designs.responders_at_visit(run).data
    entry = run.results.response[str(run.results.main.stage)][str(run.results.main.learner)]
    sizes = {visit: rates.n_subjects for visit, rates in entry.by_visit.items()}
    (visit,) = set(table["visit"])
    later = list(sizes)[list(sizes).index(visit) + 1 :]
    assert sizes[visit] == max(sizes.values())
    assert all(sizes[name] < sizes[visit] for name in later)
    for row in table.itertuples():
        rate = entry.by_visit[visit].rates[row.threshold][row.rater]
        assert (row.value, row.low, row.high, row.n_subjects) == (rate.value, rate.low, rate.high, sizes[visit])
        assert row.responders == round(row.value * row.n_subjects)
    assert {"75", "90", "100"} <= set(table["threshold"])
    figure = Estimate(0.5, 0.2, 0.8)
    rates = {"b": {visit: ResponseRates(8, {"75": {"model": figure, "physician": figure}})}}
    trials = {str(run.results.main.stage): Trial("a", {"a": 9, "b": 8}, "w0", [], {}, {}, {}, rates, {})}
    results = replace(run.results, trials=trials)  # type: ignore[type-var]
    by_arm = designs.responders_at_visit(SimpleNamespace(study=run.study, results=results)).data  # type: ignore[arg-type]
    assert by_arm.query("arm == 'b'")[["responders", "n_subjects"]].to_numpy().tolist() == [[4, 8], [4, 8]]


def test_other_folders_are_refused_and_an_own_one_is_replaced(chest_run: Any, films: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(films, tmp_path / "own"))
    (own / "figures/mine.png").write_text("")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    for folder, named in ((own, "mine.png"), (foreign, "thesis.tex"), (chest_run.folder / "paper", "run folder")):
        with pytest.raises(RunError, match=named):
            write_paper([chest_run.folder], folder)
    assert not (chest_run.folder / "paper").exists()
    (own / "figures/mine.png").unlink()
    (own / "paper.json").write_text("{}")
    with pytest.raises(RunError, match=r"paper\.json"):
        write_paper([chest_run.folder], own)
