"""A study in one call: from a table and its images, as `casewise init` reads them, to the finished run."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.console import Show

log = logging.getLogger("casewise")
OPTION = re.compile(r"--(target|subject|images|pattern)\b")
# The files of a study that this function writes.
FILES = ("study.yaml", "init.yaml", "cohort.csv")


class _NewStudy(Protocol):
    """A study not written yet: contents by file name; what was understood of the table, and doubts, in lines."""

    files: dict[str, bytes]
    understood: list[str]
    doubts: list[str]


class StudyPlanner(Protocol):
    """A plugin that makes a study of somebody's table and images."""

    def new_study(
        self,
        table: Sequence[Path],
        images: Path | None,
        target: str,
        subject: str,
        pattern: str,
        folder: Path,
        preset: str = "",
    ) -> _NewStudy | None:
        """The study file for somebody's table and images, which is not written yet; None if it makes none.

        Args:
            table: one file, or the first and those that are joined to it.
            images: their folder; None: the table's folder.
            target: the column to predict; empty: the likeliest one.
            subject: the column that identifies people; empty: the likeliest one.
            pattern: what the paths of images state; empty: it is found.
            folder: where the study is going to be.
            preset: the published protocol that states targets and recipe; empty: they follow from the table.

        Raises:
            CasewiseError: the table or the images cannot be read, or there is nothing to predict.
        """


def fit(
    table: pd.DataFrame | Path | str | Sequence[pd.DataFrame | Path | str],
    output: Path | str,
    *,
    target: str = "",
    images: Path | str | Mapping[str, Any] | None = None,
    subject: str = "",
    pattern: str = "",
    show: Show | bool | None = None,
    **changes: Any,
) -> Run:
    """Make a study of a table and its images, as `casewise init`, and run it.

    Everything is in the folder `output`: `study.yaml` with the settings, `table.csv` (of a data frame), and the run
    folder `run`. With `changes`, what was understood of the table is in `init.yaml`, which `study.yaml` extends. Called
    again with the same table, target, subject and images, it continues, with other `changes` as long as the run accepts
    them.

    Args:
        table: a data frame or the path of a file: a row for each image or case with the files of the images; or for
            each region, visit, subject or score, which the paths of the images state. A list: scores and further
            tables, such as demography and treatment, which are joined by subject. `book.xlsx:SHEET` names a sheet.
        output: a new folder, or the folder of an earlier, identical call.
        target: the column to predict; by default the likeliest one.
        images: the folder of the images; by default the table's folder. For a data frame: the folder that contains all
            files of a column with whole paths, or the current one. A mapping, such as `{"size": 128}`, is the key
            `images` of the study file.
        subject: the column that identifies people; by default the likeliest one.
        pattern: what the paths of the images state, such as `{subject}/{visit}_{region}_{n}.jpg`; by default it is
            found.
        show: where progress is reported, as in `run`. Where it is nowhere, doubts on the table are logged as warnings.
        changes: values of the study file by key, such as `budget="10 min"`. `extends="onestep-pasi"` starts from a
            preset, which states the targets.

    Returns:
        The finished run; `run.report` is the path of its report.

    Raises:
        CasewiseError: something in the table, the images or the folder must be corrected first; `output` has the study
            of other arguments. The folder's study is then as it was.
    """
    import yaml

    from casewise.cohort.table import names_text
    from casewise.console import Silent, shown_at
    from casewise.files import checksum, write_atomic, write_json
    from casewise.report.formatting import listed
    from casewise.run import run
    from casewise.run_folder import RunFolder
    from casewise.study.loading import read_study

    tables = list(table) if isinstance(table, (list, tuple)) else [table]
    kinds = [type(each).__name__ for each in tables if not (isinstance(each, (str, Path)) or hasattr(each, "to_csv"))]
    if kinds or not tables or not isinstance(output, (str, Path)):
        kind = names_text([*dict.fromkeys(kinds)], 3) or (type(table).__name__ if tables else "list without tables")
        raise CasewiseError(
            "fit: the first argument is a data frame or the path of a table, or a list of them, the second the path of "
            f"a folder, not {kind} and {type(output).__name__}."
        )
    folder, show = Path(output), shown_at(show)
    preset = str(changes.pop("extends", ""))
    if isinstance(images, Mapping):
        changes, images = changes | {"images": dict(images)}, None
    contents: dict[Path, bytes] = {}  # of data frames
    paths = [Path(each) if isinstance(each, (str, Path)) else Path() for each in tables]
    for number, each in enumerate(tables, start=1):
        if not isinstance(each, (str, Path)):
            paths[number - 1] = folder / (f"table-{number}.csv" if number > 1 else "table.csv")
            contents[paths[number - 1]] = table_bytes(each)
    images = images or (None if isinstance(tables[0], (str, Path)) else _image_folder(tables[0]))
    digests = {path: sha256(content).hexdigest() for path, content in contents.items()}
    stated = {"table": " ".join(digests.get(path, str(path)) for path in paths), "target": target, "subject": subject}
    stated |= {"images": str(images) if images else ""} | ({"pattern": pattern} if pattern else {})
    stated |= {"extends": preset} if preset else {}
    record = folder / "fit.json"
    earlier = json.loads(record.read_text()) if record.exists() else {}
    before = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    begun, fresh = RunFolder(folder / "run").has_networks(), not folder.exists()
    # a sheet is named as FILE.xlsx:SHEET
    files_of = {path: path if path.is_file() else Path(str(path).rpartition(":")[0]) for path in paths}
    written = " ".join(digests.get(p) or (checksum(file) if file.is_file() else "") for p, file in files_of.items())
    mended = not begun and earlier.pop("content", written) != written
    earlier.pop("content", "")
    if (earlier or before) and earlier != stated and (begun or not earlier):
        other = listed([name for name in stated | earlier if stated.get(name) != earlier.get(name)])
        raise CasewiseError(f"{folder} has a study of another {other}. Name another folder as `output`.")
    files = {name: text for name, text in before.items() if name != "init.yaml"}
    if earlier == stated and before and not mended:
        planned = before.get("init.yaml") or before["study.yaml"]
    else:
        for path, content in contents.items():
            write_atomic(path, content)
        new = _planned(paths, Path(images) if images else None, target, subject, pattern, folder, preset)
        for line in (*new.understood, *new.doubts):
            show.line("study", line)
        for doubt in new.doubts if isinstance(show, Silent) else ():
            log.warning("%s", doubt)
        planned, files = new.files["study.yaml"], dict(new.files)
    extending = yaml.safe_dump({"extends": "init.yaml", **changes}, sort_keys=False).encode()
    files |= {"init.yaml": planned, "study.yaml": extending} if changes else {"study.yaml": planned}
    try:
        (folder / "init.yaml").unlink(missing_ok=True)
        for name, text in files.items():
            write_atomic(folder / name, text)
        study = read_study(folder / "study.yaml")
        write_json(record, stated | {"content": written})
        return run(study, folder / "run", show=show)
    except BaseException:  # also Ctrl-C, after which the same call or a corrected one goes on
        if before or not record.exists():  # a corrected call finds nothing of this one
            for name in {*files, *before}:
                if name in before:
                    write_atomic(folder / name, before[name])
                else:
                    (folder / name).unlink(missing_ok=True)
            if fresh and not (folder / "run").exists():
                for path in contents:
                    path.unlink(missing_ok=True)
                with suppress(OSError):  # it has something of somebody else
                    folder.rmdir()
        raise


def _planned(
    paths: Sequence[Path], images: Path | None, target: str, subject: str, pattern: str, folder: Path, preset: str
) -> _NewStudy:
    from casewise.plugin import implementing

    stated = (images, target, subject, pattern, folder)
    planned = (
        plugin.new_study(paths, *stated, preset=preset) if preset else plugin.new_study(paths, *stated)
        for plugin in implementing(StudyPlanner)
    )
    try:
        new = next((study for study in planned if study is not None), None)
    except CasewiseError as error:  # which names the options of `casewise init`
        raise type(error)(OPTION.sub(r"`\1=`", str(error))) from error
    if new is None:
        raise CasewiseError("casewise.fit needs the plugin `init`, which is not there. Install casewise again.")
    return new


def table_bytes(table: pd.DataFrame) -> bytes:
    """A data frame as a CSV file, without its index.

    Raises:
        CasewiseError: it has no rows.
    """
    if not len(table):
        raise CasewiseError("The data frame has no rows. It needs one for each image or case.")
    return table.to_csv(index=False).encode()


def _image_folder(table: pd.DataFrame) -> Path:
    """The folder that contains the files of the first column with absolute paths; without one, the current folder.

    >>> import pandas as pd
    >>> str(_image_folder(pd.DataFrame({"subject": [1, 2], "path": ["/a/b/1.jpg", "/a/c/2.jpg"]})))
    '/a'
    """
    for column in table:
        cells = [Path(str(cell)) for cell in table[column].dropna()]
        if cells and all(cell.is_absolute() for cell in cells):
            return Path(os.path.commonpath([cell.parent for cell in cells]))
    return Path()
