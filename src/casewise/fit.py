"""A study in one call: from a table and its images, as `casewise init` reads them, to the finished run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.console import Show


def fit(
    table: pd.DataFrame | Path | str,
    output: Path | str,
    *,
    target: str = "",
    images: Path | str | None = None,
    subject: str = "",
    show: Show | bool | None = None,
    **changes: Any,
) -> Run:
    """Make a study of a table and its images, as `casewise init`, and run it.

    Everything is in the folder `output`: `table.csv` (of a data frame), `study.yaml`, `fit.yaml`, which has
    `changes`, and the run folder `run`. Called again with the same arguments, it continues.

    Args:
        table: a row for each image or case, with the files of the images; a data frame or the path of a file.
        output: a new folder, or that of the same call before.
        target: the column to predict; by default the likeliest one.
        images: the folder of the images; by default that of the table. For a data frame: that which contains all
            files of a column with whole paths, or the current one.
        subject: the column that identifies people; by default the likeliest one.
        show: where progress is reported, as in `run`.
        changes: values of the study file by key, such as `budget="10 min"`.

    Returns:
        The finished run; `run.report` is the path of its report.

    Raises:
        CasewiseError: something in the table, the images or the folder must be corrected first; `output` has the study
            of another table, target or subject. Other `changes` are those of a new run while nothing was trained.
    """
    import yaml

    from casewise.console import shown_at
    from casewise.files import write_atomic
    from casewise.plugin import plugins
    from casewise.run import run
    from casewise.study.loading import read_study

    folder, show = Path(output), shown_at(show)
    path, content = (Path(table), b"") if isinstance(table, (str, Path)) else (folder / "table.csv", table_bytes(table))
    if content and path.exists() and path.read_bytes() != content:
        raise CasewiseError(f"{path} is of another table. Name another folder as `output`.")
    if content:
        write_atomic(path, content)
        images = images or image_folder(table)
    planned = (
        plugin.new_study(path, Path(images) if images else None, target, subject, folder) for plugin in plugins()
    )
    new = next((study for study in planned if study is not None), None)
    if new is None:
        raise CasewiseError("casewise.fit needs the plugin `init`, which is not there. Install casewise again.")
    for line in (*new.understood, *new.doubts):
        show.line("study", line)
    files = dict(new.files)
    if changes:
        files["fit.yaml"] = yaml.safe_dump({"extends": "study.yaml", **changes}, sort_keys=False).encode()
    before = [name for name in new.files if (folder / name).exists()]
    if any((folder / name).read_bytes() != files[name] for name in before):
        raise CasewiseError(
            f"{folder} has a study of other arguments, or one that was changed. Run it with `casewise.run`, or name "
            "another folder as `output`."
        )
    (folder / "fit.yaml").unlink(missing_ok=True)
    for name, file in files.items():
        write_atomic(folder / name, file)
    try:
        study = read_study(folder / ("fit.yaml" if changes else "study.yaml"))
    except CasewiseError:  # so that the corrected call finds nothing of this one
        for name in set(files) - set(before):
            (folder / name).unlink()
        raise
    return run(study, folder / "run", show=show)


def table_bytes(table: pd.DataFrame) -> bytes:
    """A data frame as a CSV file, without its index.

    Raises:
        CasewiseError: it has no rows.
    """
    if not len(table):
        raise CasewiseError("The data frame has no rows. It needs one for each image or case.")
    return table.to_csv(index=False).encode()


def image_folder(table: pd.DataFrame) -> Path:
    """The folder that contains the files of the first column with absolute paths; without one, the current folder.

    >>> import pandas as pd
    >>> str(image_folder(pd.DataFrame({"subject": [1, 2], "path": ["/a/b/1.jpg", "/a/c/2.jpg"]})))
    '/a'
    """
    for column in table:
        cells = [Path(str(cell)) for cell in table[column].dropna()]
        if cells and all(cell.is_absolute() for cell in cells):
            return Path(os.path.commonpath([cell.parent for cell in cells]))
    return Path()
