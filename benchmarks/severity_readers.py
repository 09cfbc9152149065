"""Two radiologists and a model on real films: who is closer to whom.

    python benchmarks/severity_readers.py [--run runs/auto/severity] [--output docs/results/severity-readers.md]

The run is that of `studies/auto/severity.yaml` (`make auto`). Figures are printed, never asserted. The head of the page
follows.

# Two radiologists and a model

The Brixia score (0 to 18) of chest films of patients with COVID-19, read by a senior and a junior radiologist. The
model is that of [the planned run](auto.md), on films whose subjects it did not learn from. Of two readers, each is the
reference of the other: the model is compared with a reader by their distances from the other one. The model was trained
on the mean of both readers of other films, which is to its advantage, and its predictions may lie between the values
that readers can give. Parts of the recipe were chosen on half of these subjects ([which](auto.md)), which may flatter
it.

In brackets 95 % intervals by subject, from leaving out one subject at a time.

"""

from __future__ import annotations

from pathlib import Path

from pages import head_of, page_parser, publish, table

from casewise.analysis.run import Run
from casewise.cohort.cohort import read_cohort
from casewise.evaluation.figures import Estimate
from casewise.plugins.readers.model_values import model_values
from casewise.plugins.readers.reader_columns import column_readings, columns_form
from casewise.plugins.readers.statistics.agreement import ICC_AGREEMENT, ICC_CONSISTENCY, agreements
from casewise.plugins.readers.statistics.agreement_words import scale_of, verdict_words
from casewise.plugins.readers.statistics.duel import ModelPredictions, duels
from casewise.study.loading import read_study

ROOT = Path(__file__).resolve().parents[1]
# By how much the model's distance may exceed a reader's; a point of 18, stated before the comparison was made.
MARGIN = 1.0


def shown(figure: Estimate, digits: int = 2, *, sign: str = "") -> str:
    """A figure with its interval."""
    if figure.value is None:
        return f"– ({figure.reason})"
    ends = f" [{figure.low:{sign}.{digits}f}, {figure.high:{sign}.{digits}f}]" if figure.low is not None else ""
    return f"{figure.value:{sign}.{digits}f}{ends}"


def page_of(run: Run) -> str:
    """The tables of the page."""
    study = read_study(ROOT / "studies" / "covid-severity.yaml")
    form = columns_form(study)
    readings = column_readings(study, read_cohort(study, to_learn=False, labelled=False))
    values = model_values(run, form)
    scale = scale_of(form.fields[0])
    common = readings[readings["case"].isin(values["case"])]
    result = agreements(common, form.fields)["brixia"]
    model = ModelPredictions("The model", "out of fold", values)
    (duel,) = duels(common, form.fields, model, {"brixia": MARGIN}).values()
    between = result.between
    rows = [
        ["mean distance, points", shown(between["mae"])],
        ["ICC(2,1)", shown(between[ICC_AGREEMENT])],
        ["ICC(3,1)", shown(between[ICC_CONSISTENCY])],
        *([f"{name} minus the other", shown(each.bias, sign="+")] for name, each in result.readers.items()),
    ]
    blocks = ["## The readers", "\n".join(table(["senior and junior", "figure"], rows))]
    lines = []
    for name, each in duel.readers.items():
        (reference,) = set(duel.readers) - {name}
        lines.append(
            [
                reference,
                name,
                shown(each.reader),
                shown(each.model),
                shown(each.difference, sign="+"),
                verdict_words(each, MARGIN, scale),
            ]
        )
    heads = ["reference", "reader", "reader's distance", "model's distance", "model − reader", "the model is"]
    blocks += ["## The model against each reader", "\n".join(table(heads, lines))]
    verdict, gap = verdict_words(duel.mean, MARGIN, scale), shown(duel.mean.difference, sign="+")
    cases, subjects = between["mae"].n_cases, between["mae"].n_subjects
    blocks.append(
        f"Over both readers, the model's distance minus a reader's is {gap}: {verdict}. {cases} visits of {subjects} "
        f"subjects; the margin of {MARGIN:g} point was stated in advance."
    )
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Print and write the page."""
    parser = page_parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/auto/severity"), help="the finished run")
    options = parser.parse_args()
    publish(head_of(__doc__) + "\n" + page_of(Run.open(options.run)), options.output)


if __name__ == "__main__":
    main()
