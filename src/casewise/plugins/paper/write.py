"""The folder of a publication: every table and figure that the runs allow, and the reasons for what is missing."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, RunError
from casewise.files import check_folder, make_folder, parsed_json, staging_folder, storage_failures, write_json
from casewise.plugins.paper import architecture, designs
from casewise.plugins.paper.contents import Paper as Contents
from casewise.plugins.paper.contents import joined
from casewise.plugins.paper.figures import PRINT, Sheet, figures
from casewise.plugins.paper.latex import figures_document, latex, tables_document
from casewise.report.blocks import Table

if TYPE_CHECKING:
    from casewise.analysis.run import Run

DPI = 300
LIST, FORMAT = "paper.json", "casewise-paper-1"


@dataclass(frozen=True)
class Settings:
    """Settings of the folder: greys, the names of subjects, and the publication to compare with."""

    grey: bool = False
    names: bool = False
    references: str = ""


@dataclass
class Paper:
    """The written items with their files, the items left out with the reason, and captions of figures, by name."""

    folder: Path
    written: dict[str, list[str]] = field(default_factory=dict)
    not_written: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


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
        files = sorted([file for names in paper.written.values() for file in names] + _documents(paper, stage))
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


def _documents(paper: Paper, stage: Path) -> list[str]:
    """Write the LaTeX documents of all tables and of all figures; return their names."""
    written = [file for names in paper.written.values() for file in names]
    tables = [file for file in written if file.endswith(".tex")]
    pages = {label: [f for f in paper.written[label] if f.endswith(".pdf")] for label in paper.captions}
    documents = {"tables.tex": tables_document(tables)} if tables else {}
    if pages:
        documents["figures.tex"] = figures_document([(paper.captions[label], pages[label]) for label in pages])
    for name, text in documents.items():
        (stage / name).write_text(text, encoding="utf-8")
    return list(documents)


def _attempt(paper: Paper, stage: Path, folder: Path, name: str, make: Callable[[], Table | Sheet]) -> None:
    """Write one table or figure, or note the reason why it cannot be made."""
    label = str(folder.parent / name) if str(folder.parent) != "." else name
    label = f"{folder.name[:-1]} {label}"
    try:
        item = make()
        files = _save(item, make_folder(stage / folder) / _file_name(name))
    except CasewiseError as error:
        paper.not_written[label] = " ".join(str(error).split())
        return
    paper.written[label] = [(folder / file).as_posix() for file in files]
    if isinstance(item, Sheet):
        paper.captions[label] = item.caption


def _everything(contents: Contents, settings: Settings) -> Iterator[tuple[str, str, Callable[[], Table | Sheet]]]:
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
    yield "tables", "responders-at-visit", partial(designs.responders_at_visit, run)
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
    for name, make in figures(contents, grey=settings.grey, names=settings.names):
        yield "figures", name, make


def _save(item: Table | Sheet, path: Path) -> list[str]:
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
        for number, figure in enumerate(pages, 1):
            name = f"{path.name}-{number}" if len(pages) > 1 else path.name
            for form, metadata in dates.items():
                files.append(f"{name}.{form}")
                figure.savefig(path.with_name(files[-1]), dpi=DPI, metadata=metadata)
    return files


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
