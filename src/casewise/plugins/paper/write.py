"""The folder of a publication: every table and figure that the runs allow, and the reasons for what is missing."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, RunError
from casewise.files import check_folder, make_folder, parsed_json, staging_folder, storage_failures, write_json
from casewise.plugins.paper import architecture, designs
from casewise.plugins.paper.contents import Paper as Contents
from casewise.plugins.paper.contents import joined
from casewise.plugins.paper.latex import latex
from casewise.report.blocks import Table
from casewise.report.figures.drawing import STYLE
from casewise.report.formatting import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from casewise.analysis.run import Run

SINGLE, DOUBLE, PAGE_HEIGHT = 85.0, 170.0, 225.0
MM, LEAST, MOST, DPI = 1 / 25.4, 7.0, 8.0, 300
PRINT: dict[Any, Any] = {
    **STYLE,
    "font.size": LEAST,
    "axes.titlesize": MOST,
    "axes.labelsize": 7.5,
    "xtick.labelsize": LEAST,
    "ytick.labelsize": LEAST,
    "legend.fontsize": LEAST,
    "lines.linewidth": 1.0,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,
}
# Draws on the axes `ax`.
Draw = Callable[..., object]
# Left, bottom, right and top in mm.
Margins = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Sheet:
    """A figure of one or more parts.

    Attributes:
        parts: each draws one part on the axes given to it.
        width, height: of the whole width, and of one row, in mm.
    """

    parts: Sequence[Draw]
    width: float = DOUBLE
    columns: int = 1
    height: float = 60.0
    margins: Margins = (13, 11, 2, 7)

    def pages(self) -> list[_Sheet]:
        """The sheet divided where it is higher than a page."""
        size = max(1, int(PAGE_HEIGHT // self.height)) * self.columns
        starts = range(0, len(self.parts), size)
        return [replace(self, parts=self.parts[start : start + size]) for start in starts]

    def figure(self) -> Figure:
        """All parts on one figure, in the sizes of print."""
        import matplotlib
        from matplotlib.figure import Figure

        columns = min(self.columns, len(self.parts))
        rows = -(-len(self.parts) // columns)
        height, wide = rows * self.height, self.width / self.columns
        width = wide * columns
        left, bottom, right, top = self.margins
        with matplotlib.rc_context(PRINT):
            figure = Figure(figsize=(width * MM, height * MM))
            for number, draw in enumerate(self.parts):
                row, column = divmod(number, columns)
                box = (
                    (column * wide + left) / width,
                    1 - ((row + 1) * self.height - bottom) / height,
                    (wide - left - right) / width,
                    (self.height - bottom - top) / height,
                )
                axes = figure.add_axes(box)
                draw(ax=axes)
            _reduce_text(figure)
        return figure


def _reduce_text(figure: Figure) -> None:
    """Reduce all text to print sizes: the report's text is sized for screens."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        size = float(text.get_fontsize())  # type: ignore[attr-defined]
        text.set_fontsize(min(max(LEAST, size * 0.75), MOST))  # type: ignore[attr-defined]


def _save(item: Table | _Sheet, path: Path) -> list[str]:
    """Write a table as CSV and LaTeX, or each page of a figure as PDF, SVG and PNG; equal ones give equal bytes."""
    import matplotlib

    if isinstance(item, Table):
        texts = {".csv": item.csv(), ".tex": latex(item)}
        for end, text in texts.items():
            path.with_name(path.name + end).write_text(text, encoding="utf-8")
        return [path.name + end for end in texts]
    dates: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    pages, files = item.pages(), []
    with matplotlib.rc_context(PRINT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for number, page in enumerate(pages, 1):
            name, figure = f"{path.name}-{number}" if len(pages) > 1 else path.name, page.figure()
            for form, metadata in dates.items():
                files.append(f"{name}.{form}")
                figure.savefig(path.with_name(files[-1]), dpi=DPI, metadata=metadata)
    return files


LIST, FORMAT, MOST_TRACKS = "paper.json", "casewise-paper-1", 12


@dataclass(frozen=True)
class Settings:
    """Settings of the folder: greys, the names of subjects, and the publication to compare with."""

    grey: bool = False
    names: bool = False
    references: str = ""


@dataclass
class Paper:
    """The written items with their files, and the items left out with the reason, by name."""

    folder: Path
    written: dict[str, list[str]] = field(default_factory=dict)
    not_written: dict[str, str] = field(default_factory=dict)


def check_output(output: Path, runs: Sequence[Path]) -> None:
    """Check that the folder is new, empty, or one of an earlier call without further files.

    Raises:
        RunError: it is another one, or lies in a run.
    """
    inside = next((run for run in runs if output.resolve().is_relative_to(run.resolve())), None)
    if inside is not None:
        raise RunError(f"{output} lies in the run folder {inside}. Choose another folder with --output.")
    check_folder(output, [LIST], "the folder of a publication")
    if not (output / LIST).is_file():
        return
    try:
        record = parsed_json((output / LIST).read_text(encoding="utf-8"))
        own = {LIST, *record["files"]} if record["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{output / LIST} is not a list of casewise paper. Choose another folder.") from error
    there = {str(path.relative_to(output)) for path in output.rglob("*") if not path.is_dir()}
    if other := min(there - own, default=None):
        raise RunError(
            f"{output} holds {other}, which `casewise paper` did not write. Move it, or choose another folder."
        )


def write(runs: Sequence[Run], output: Path, settings: Settings, *, progress: Any = None) -> Paper:
    """Write everything into a new folder that replaces `output` in one step.

    Raises:
        CasewiseError: nothing was evaluated in any run, or the disk cannot be written.
    """
    paper = Paper(output)
    folders = _folder_names(runs)
    with storage_failures(output), staging_folder(output) as stage:
        papers = [Contents(run, settings.references) for run in runs]
        for number, (contents, name) in enumerate(zip(papers, folders, strict=True)):
            label = f"{name} results".strip()
            for network, reason_by_fold in contents.run.left_out.items():
                reason = next(iter(reason_by_fold.values()), "it could not be trained")
                paper.not_written[f"{label} of {network}"] = " ".join(str(reason).split())
            with contents.run.files.lock():
                items = list(_everything(contents, settings))
                for step, (kind, item, make) in enumerate(items):
                    if progress:
                        progress(number * len(items) + step, len(runs) * len(items), f"{name} {item}".strip())
                    _attempt(paper, stage, Path(name) / kind, item, make)
        if len(papers) > 1:
            _attempt(paper, stage, Path("tables"), "joined", lambda: joined(papers))
        if not paper.written:
            raise CasewiseError(
                f"{output}: none of the runs gives a table or figure: {next(iter(paper.not_written.values()))}"
            )
        files = sorted(file for names in paper.written.values() for file in names)
        write_json(stage / LIST, {"format": FORMAT, "files": files, "not_written": paper.not_written}, durable=False)
        _replace(stage, output)
    return paper


def _folder_names(runs: Sequence[Run]) -> list[str]:
    """The folder of each run in the output: none for a single one, else its study's name, numbered where equal."""
    if len(runs) == 1:
        return [""]
    names: list[str] = []
    for run in runs:
        name = _file_name(run.study.name)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _file_name(text: str) -> str:
    """A name of the study as a file name."""
    return re.sub(r"[^\w@.+-]+", "-", text).strip("-.") or "unnamed"


def _attempt(paper: Paper, stage: Path, folder: Path, name: str, make: Callable[[], Table | _Sheet]) -> None:
    """Write one table or figure, or note the reason why it cannot be made."""
    label = str(folder.parent / name) if str(folder.parent) != "." else name
    label = f"{folder.name[:-1]} {label}"
    try:
        item = make()
        files = _save(item, make_folder(stage / folder) / _file_name(name))
    except CasewiseError as error:
        paper.not_written[label] = " ".join(str(error).split())
        return
    paper.written[label] = [str(folder / file) for file in files]


def _everything(contents: Contents, settings: Settings) -> Iterator[tuple[str, str, Callable[[], Table | _Sheet]]]:
    """Kind, name and maker of every table and figure of a run."""
    run = contents.run
    outcome, stages = run.study.primary_outcome, run.results.stages
    yield "tables", "design", contents.design
    yield "tables", "published", contents.published_values
    for stage in stages or [""]:
        for target in contents.targets(stage) or [outcome]:
            yield "tables", f"results-{target}-{stage}", partial(contents.results, target, stage)
            if len(contents.learners(stage, target)) > 10 and target == outcome:
                yield "tables", f"top10-{target}-{stage}", partial(contents.results, target, stage, most=10)
            if run.study.classes_of(target):
                yield "tables", f"confusion-{target}-{stage}", partial(contents.confusion, target, stage)
                yield "tables", f"report-{target}-{stage}", partial(contents.reports, target, stage)
    yield "tables", "labels", contents.labels
    yield "tables", "folds", contents.folds
    yield "tables", "training", contents.training
    yield "tables", "trajectories", partial(contents.trajectories, names=settings.names)
    yield "tables", "responders", contents.responders
    yield "tables", "effects", contents.effects
    yield "tables", "arms", partial(designs.arms, run)
    yield "tables", "covariates", partial(designs.covariates, run)
    yield "tables", "architectures", partial(architecture.summary, run)
    try:
        jobs = architecture.first_jobs(run)
    except CasewiseError:
        jobs = {}
    for network, job in jobs.items():
        yield "tables", f"layers-{network}", partial(architecture.layers, run, network, job)
    for name, make in _figures(contents, settings).items():
        yield "figures", name, make


def _figures(contents: Contents, settings: Settings) -> dict[str, Callable[[], _Sheet]]:
    """The maker of each figure; what is drawn is checked when it is made."""
    run, plot = contents.run, contents.run.plot

    def pictures(what: str) -> _Sheet:
        from casewise.analysis.pictures import examples, preparation, saliency
        from casewise.report.figures.drawing import onto
        from casewise.report.figures.paper import gallery

        kinds = {"preparation": preparation, "examples": examples, "saliency": saliency}
        shown = kinds[what](run, grey=settings.grey)
        rows = len({picture.row for picture in shown})
        columns = max(sum(picture.row == row for picture in shown) for row in {picture.row for picture in shown})

        def draw(ax: Axes) -> None:
            with onto(ax):
                gallery(shown)

        width = min(1.0, columns * 45 / 170) * 170
        height = min(PAGE_HEIGHT, rows * min(60.0, width / columns * 1.15))
        return _Sheet([draw], width, height=height, margins=(1, 1, 1, 1))

    def fit() -> _Sheet:
        _needs(contents, classes=False)
        plot.fit()  # what does not apply is refused before a sheet is begun
        return _Sheet([plot.fit], SINGLE, height=85, margins=(13, 11, 2, 3))

    def trajectories() -> _Sheet:
        from casewise.report.figures.agreement import chosen_tracks

        tracks = contents.tracks()
        numbers = {track.subject: f"Subject {number}" for number, track in enumerate(tracks, 1)}
        shown = sorted(chosen_tracks(tracks, MOST_TRACKS), key=lambda track: list(numbers).index(track.subject))
        titles = {track.subject: None if settings.names else numbers[track.subject] for track in shown}
        parts = [partial(plot.trajectory, subject, title=title) for subject, title in titles.items()]
        return _Sheet(parts, columns=3, height=52, margins=(12, 7, 2, 19))

    def learning() -> _Sheet:
        plot.learning()
        networks = list(dict.fromkeys(str(job["model"]) for job in run.finished.jobs if job.get("history")))
        return _Sheet(
            [partial(plot.learning, network) for network in networks], columns=3, height=70, margins=(12, 10, 2, 13)
        )

    def confusion() -> _Sheet:
        _needs(contents, classes=True)
        plot.confusion()
        target, stage = run.study.primary_outcome, contents.stage
        parts = [partial(_confusion, plot, name, stage) for name in contents.learners(stage, target)]
        below = 29 if _touch(run.study.classes_of(target)) else 14
        return _Sheet(parts, columns=3, height=46 + below, margins=(22, below, 2, 8))

    def distributions() -> _Sheet:
        names = run.targets
        below = 24 if any(_touch(run.study.classes_of(name)) for name in names) else 8
        parts = [partial(_distribution, plot, name) for name in names]
        return _Sheet(parts, columns=3, height=40 + below, margins=(13, below, 2, 8))

    def roc() -> _Sheet:
        _needs(contents, classes=True)
        plot.roc()
        below = 14.0 + 5 * min(8, len(run.study.classes_of(run.study.primary_outcome)))
        return _Sheet([plot.roc], SINGLE, height=71 + below, margins=(14, below, 3, 3))

    return {
        "preparation": partial(pictures, "preparation"),
        "examples": partial(pictures, "examples"),
        "distributions": distributions,
        "fit": fit,
        "trajectories": trajectories,
        "learning": learning,
        "confusion": confusion,
        "roc": roc,
        "saliency": partial(pictures, "saliency"),
    }


def _needs(contents: Contents, *, classes: bool) -> None:
    """Check that the primary outcome is of the kind that a figure is for.

    Raises:
        CasewiseError: it is not.
    """
    outcome = contents.run.study.primary_outcome
    if bool(contents.run.study.classes_of(outcome)) != classes:
        raise CasewiseError(f"{outcome} has {'no ' if classes else ''}classes")


def _distribution(plot: Any, target: str, ax: Axes) -> None:
    plot.distribution(target, ax=ax)
    if plot.run.study.classes_of(target):
        _separate_names(ax)


def _confusion(plot: Any, learner: str, stage: str, ax: Axes) -> None:
    from casewise.study.learners import learner_name

    plot.confusion(learner=learner, stage=stage, ax=ax)
    ax.set_title(fill(learner_name(learner), 24, break_long_words=False), loc="left", fontweight="bold")
    _separate_names(ax)
    ax.set_yticks(ax.get_yticks(), [fill(text.get_text(), 13) for text in ax.get_yticklabels()])


def _touch(names: Sequence[str]) -> bool:
    """Whether names side by side would touch below the axes of a third of a page."""
    return max(map(len, names), default=0) * len(names) > 18


def _separate_names(axes: Any) -> None:
    """Slant the names below the axes where they would touch."""
    names = [text.get_text() for text in axes.get_xticklabels()]
    if _touch(names):
        lines = [shortened(name, 18) for name in names]
        axes.set_xticks(axes.get_xticks(), lines, rotation=45, ha="right", rotation_mode="anchor")


def _replace(stage: Path, output: Path) -> None:
    """Let the complete folder take the place of an empty one or of one of an earlier call."""
    umask = os.umask(0)
    os.umask(umask)
    stage.chmod(0o777 & ~umask)
    before = output.with_name(f".{output.name}.before-{os.getpid()}")
    if output.exists():
        os.replace(output, before)
    try:
        os.replace(stage, output)
    except OSError:
        if before.exists():
            os.replace(before, output)
        raise
    shutil.rmtree(before, ignore_errors=True)
