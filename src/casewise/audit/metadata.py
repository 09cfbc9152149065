"""Metadata of images as features: the other columns of the table, and facts of the files."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit.probes import Floats
from casewise.cohort.checks import closest, number
from casewise.cohort.clinical_words import PEOPLE, unaccented
from casewise.cohort.groups import recorded
from casewise.cohort.table import natural
from casewise.cohort.targets import target_columns
from casewise.errors import CohortError
from casewise.modalities.registry import modality_of
from casewise.study.schema import Study

# The report also counts classes by these.
SOURCES = (
    *("source", "site", "centre", "center", "hospital", "institution", "institute", "clinic"),
    *("dataset", "database", "scanner"),
)
USUAL = (
    *SOURCES,
    *("device", "manufacturer", "vendor", "camera", "station", "modelname", "manufacturermodelname"),
    *PEOPLE,
    *("country", "city", "operator", "technician", "photographer"),
    *("view", "viewposition", "projection", "position", "modality", "protocol", "sequence", "laterality", "side"),
    *("location", "magnification", "mpp", "stain", "batch"),
    *("date", "studydate", "examdate", "acquisitiondate", "scandate", "imagedate", "year"),
    # facts of slides, see `casewise.plugins.slides.cohort.FACTS`
    *("slidevendor", "slidempp", "slidemagnification", "slidesize"),
)
# Columns of every cohort, and those that casewise itself adds to a table, by their beginnings.
STANDARD = ("image", "path", "subject", "visit", "case", "day", "region", "panel")
INTERNAL = ("tile_", "slide_", "sequence", "estimated_ita", "estimated_skin_")
RARE, MOST_LEVELS, MOSTLY = 5, 30, 0.9
# A column with few distinct numbers is a code (1 = male), not a quantity.
FEW_NUMBERS = 12
_SIZE = re.compile(r"\s*(\d+)\s*[x×*]\s*(\d+)\s*")
_AGE = re.compile(r"(\d+)\s*[yY]")


@dataclass(frozen=True, eq=False)
class Column:
    """A column as features (n, d), the type as which it was read, and (n,) where it is filled in."""

    kind: str
    features: Floats
    filled: NDArray[np.bool_]


def named_columns(study: Study) -> list[str]:
    """The columns that a study names for the audit, and the position column if slices are cases."""
    return list(filter(None, [*(study.audit.columns or []), modality_of(study).position(study)]))


def probed_columns(study: Study, images: pd.DataFrame) -> list[str]:
    """The columns that should not predict the label: those with usual names, and `named_columns`.

    The usual ones cannot be left out: a column that predicts the label needs a reason (`accept`).

    Raises:
        CohortError: a column that the study names is missing, or is a target.
    """
    others = [str(c) for c in images.columns if c not in STANDARD and c not in study.targets]
    by_name = {name: name for name in others} | {name.removeprefix("table_"): name for name in others}
    stated = named_columns(study)
    for key, name in (*(("columns", name) for name in stated), *(("outcomes", name) for name in study.audit.outcomes)):
        if name in study.targets or name in _annotations(study):
            raise CohortError(f"audit.{key}: {name!r} is a target or its annotation. Name other columns.")
        if name not in by_name and name not in ("region", "visit", "day"):
            available = ", ".join(sorted(others, key=natural))
            raise CohortError(
                f"audit.{key}: {name!r} is not a column.{closest(name, list(by_name))} Columns are: {available}."
            )
    used = columns_in_use(study) - {study.columns.get("date")}
    usual = [name for name in others if is_usual(name) and name.removeprefix("table_") not in used]
    return list(dict.fromkeys([*(by_name.get(name, name) for name in stated), *usual]))


def columns_in_use(study: Study) -> set[str]:
    """The columns with labels, readers, names, masks and the split, which are not evidence of a shortcut."""
    masks = {study.audit.mask, *modality_of(study).mask_columns(study).values()}
    columns = {*study.columns.values(), study.split.column, *masks}
    return _annotations(study) | {column for column in columns if column}


def _annotations(study: Study) -> set[str]:
    """The columns of labels and of what readers recorded."""
    columns = {column for name in study.targets for column in target_columns(name, study)}
    return columns | {column for readers in study.evaluation.readers.values() for column in readers.values()}


def is_usual(name: str) -> bool:
    """Whether a column has one of the usual names of what should not predict a label.

    >>> is_usual("Patient Sex"), is_usual("ward")
    (True, False)
    """
    return _usual(name) in USUAL


def _usual(name: str) -> str:
    """A column's name in lower case, without spaces and common prefixes.

    >>> _usual("Patient Sex"), _usual("view_position"), _usual("table_site")
    ('sex', 'viewposition', 'site')
    """
    plain = re.sub(r"[^a-z]", "", unaccented(name.removeprefix("table_")))
    for prefix in ("patient", "subject", "image"):
        if plain.removeprefix(prefix) in USUAL:
            return plain.removeprefix(prefix)
    return plain


def source_column(columns: Sequence[str]) -> str | None:
    """The first column with the source of an image, in the order of `SOURCES`.

    >>> source_column(["age", "Site", "source"])
    'source'
    """
    return next((column for name in SOURCES for column in columns if _usual(column) == name), None)


def levels(cells: Iterable[object]) -> list[str]:
    """Cells in lower case without surrounding spaces; missing values become ''.

    >>> levels([" None", "Mild", "severe", None]), levels(["none", "61"])
    (['none', 'mild', 'severe', ''], ['', '61'])
    """
    return recorded(pd.Series(list(cells), dtype=object)).str.casefold().tolist()


def encode(name: str, text: Sequence[object], subjects: Sequence[object]) -> Column:
    """Read a column as dates, sizes (`1024x768`), numbers or levels: the first type that fits nine of ten filled cells.

    >>> encode("age", ["61", "", *map(str, range(20, 40))], range(22)).features.shape
    (22, 3)
    >>> encode("sex", ["M", "F", ""] * 5, range(15)).kind
    'levels'
    """
    cells = levels(text)
    filled = np.array([cell != "" for cell in cells])
    dated = _dates(cells) if "date" in name.casefold() or _looks_dated(cells) else None
    if dated is not None and _mostly(np.fmax(*dated.T), filled):
        year, month = dated.T
        angle = 2 * np.pi * month / 12
        features = [_quantity(year), _filled(np.sin(angle)), _filled(np.cos(angle)), _missing(month)]
        return Column("dates", np.column_stack(features), filled)
    sizes = np.array([_pair(cell) for cell in cells])
    if _mostly(sizes[:, 0], filled):
        return Column("sizes", np.column_stack([_size_features(*sizes.T), _one_hot(cells, subjects)]), filled)
    numbers = np.array([_number(cell) for cell in cells])
    if _mostly(numbers, filled) and len(np.unique(numbers[filled])) > FEW_NUMBERS:
        return Column("numbers", _quantity(numbers), filled)
    return Column("levels", _one_hot(cells, subjects), filled)


def _mostly(values: Floats, filled: NDArray[np.bool_]) -> bool:
    return bool(filled.any()) and float(np.mean(~np.isnan(values[filled]))) >= MOSTLY


def _number(cell: str) -> float:
    match = _AGE.fullmatch(cell)
    value = number(match[1] if match else cell)
    return np.nan if value is None else value


def _pair(cell: str) -> tuple[float, float]:
    match = _SIZE.fullmatch(cell)
    return (float(match[1]), float(match[2])) if match else (np.nan, np.nan)


def _looks_dated(cells: Sequence[str]) -> bool:
    """Whether cells look like dates, not numbers: 2020-03-01, 3/1/2020, 1.3.2020."""
    filled = [cell for cell in cells if cell]
    dated = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([t ].*)?")
    return bool(filled) and sum(bool(dated.fullmatch(cell)) for cell in filled) >= MOSTLY * len(filled)


def _dates(cells: Sequence[str]) -> Floats:
    """(n, 2) year and month of cells that look like dates; NaN where unknown."""
    dates = dict.fromkeys(cells, (np.nan, np.nan))
    for cell in dates:
        if re.fullmatch(r"(18|19|20|21)\d\d", cell):
            dates[cell] = (float(cell), np.nan)
        elif re.fullmatch(r"(18|19|20|21)\d{6}", cell):
            dates[cell] = (float(cell[:4]), float(cell[4:6]))
        elif re.search(r"\d", cell) and number(cell) is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                day = pd.to_datetime(cell, errors="coerce")
            if not pd.isna(day):
                # without a year, the parser inserts the current one
                year = float(day.year) if re.search(r"\d{4}|[-/.]\d\d$", cell) else np.nan
                dates[cell] = (year, float(day.month))
    return np.array([dates[cell] for cell in cells], float).reshape(len(cells), 2)


def _missing(values: Floats) -> Floats:
    return np.isnan(values).astype(float)


def _filled(values: Floats) -> Floats:
    present = values[~np.isnan(values)]
    return np.where(np.isnan(values), present.mean() if len(present) else 0.0, values)


def _quantity(values: Floats) -> Floats:
    """(n, 3) the number, its squared deviation from the mean, and whether it is missing."""
    whole = _filled(values)
    return np.column_stack([whole, (whole - whole.mean()) ** 2, _missing(values)])


def _one_hot(cells: Sequence[str], subjects: Sequence[object]) -> Floats:
    """(n, levels) an indicator for each level with at least `RARE` subjects, and one for all rarer levels."""
    people: Counter[str] = Counter(cell for cell, _ in {(c, str(s)) for c, s in zip(cells, subjects, strict=True)})
    frequent = [cell for cell, count in people.most_common(MOST_LEVELS) if count >= RARE]
    columns = {cell: column for column, cell in enumerate(sorted(frequent))}
    table = np.zeros((len(cells), len(frequent) + 1))
    table[np.arange(len(cells)), [columns.get(cell, len(frequent)) for cell in cells]] = 1.0
    return table


def _size_features(width: Floats, height: Floats) -> Floats:
    """(n, 8) logarithms of width, height and their ratio with squares, whether square, and whether unknown."""
    sides = [np.log(np.maximum(side, 1.0)) for side in (width, height)]
    features = [_quantity(values)[:, :2] for values in (*sides, sides[0] - sides[1])]
    return np.column_stack([*features, (width == height).astype(float), _missing(width)])


def file_features(index: pd.DataFrame, subjects: Sequence[object]) -> Floats:
    """(n, d) facts of each file that do not depend on its content: size, shape, mode, format, JPEG compression.

    Args:
        index: one row per image: path, width, height, mode, format (the index of the tile store).
    """
    width, height = index["width"].to_numpy(float), index["height"].to_numpy(float)
    files = index[["path", "format"]].to_numpy()
    table = np.array([_quantisation(str(path)) if kind == "JPEG" else np.nan for path, kind in files])
    sizes = [f"{w:.0f}x{h:.0f}" for w, h in zip(width, height, strict=True)]
    formats = [_one_hot(index[name].astype(str).tolist(), subjects) for name in ("mode", "format")]
    return np.column_stack([_size_features(width, height), _one_hot(sizes, subjects), _quantity(table), *formats])


def file_rate(index: pd.DataFrame) -> Floats:
    """(n, 3) the logarithm of bytes per pixel, which depends on compression and on the detail of the picture."""
    pixels = index["width"].to_numpy(float) * index["height"].to_numpy(float)
    return _quantity(np.log(np.maximum(index["bytes"].to_numpy(float) / pixels, 1e-6)))


def _quantisation(path: str) -> float:
    """The mean of a JPEG's first quantisation table, from its header: 1 is fine, 50 is coarse; NaN if unknown."""
    from PIL import Image, JpegImagePlugin, UnidentifiedImageError

    try:
        with open(Path(path), "rb") as file, JpegImagePlugin.JpegImageFile(file) as image:
            tables = image.quantization
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        # the file was readable when the tiles were made; later changes are not checked here
        return float("nan")
    return float(np.mean(next(iter(tables.values())))) if tables else float("nan")
