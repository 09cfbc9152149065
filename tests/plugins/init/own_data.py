"""Tables and folders as people have them, made from phantoms: each is built, understood, validated and run."""

import csv
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class OwnData:
    """A table and a folder of images, and what a study of them must contain."""

    images: Path
    table: Path | None = None
    target: str = ""
    pattern: str = ""
    kind: str = "classification"
    column: str = "label"
    subjects: int = 24
    cases: int = 24
    count: int = 24
    classes: list[str] = field(default_factory=list)
    subjects_known: bool = True
    direct: bool = False


class Film(NamedTuple):
    subject: str
    label: str
    file: Path

    @property
    def number(self) -> int:
        return int(self.subject[1:])


def table_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the table that `init` wrote."""
    with (folder / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def films_of(chests: Path) -> list[Film]:
    with chests.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Film(row["subject"], row["label"], chests.parent / row["path"]) for row in rows]


def text_table(
    path: Path, rows: Iterable[list[str]], separator: str = ",", end: str = "\n", code: str = "utf-8"
) -> Path:
    path.write_bytes("".join(separator.join(row) + end for row in rows).encode(code))
    return path


def copied(film: Film, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(film.file, path)
    return path


def other_column_names(folder: Path, films: list[Film]) -> OwnData:
    """Other names of columns, and the columns of a hospital's export."""
    for film in films:
        copied(film, folder / "films" / film.file.parent.name / "film.png")
    rows = [["Patienten-Nr", "Aufnahme", "Klinik", "Alter", "Befund"]]
    rows += [
        [f"P-{f.number}", f"films/{f.file.parent.name}/film.png", "AB"[i % 2], str(40 + f.number), f.label]
        for i, f in enumerate(films)
    ]
    table = text_table(folder / "export.csv", rows)
    return OwnData(folder / "films", table, column="Befund", classes=sorted({f.label for f in films}), direct=True)


def decimal_commas(folder: Path, films: list[Film]) -> OwnData:
    """Semicolons and decimal commas; a number is predicted, and the dates are German."""
    for film in films:
        copied(film, folder / "bilder" / f"{film.subject}.png")
    rows = [["proband", "bild", "datum", "score"]]
    rows += [[f.subject, f"{f.subject}.png", f"{f.number}.03.2024", f"{f.number % 9},{f.number % 7}5"] for f in films]
    return OwnData(folder / "bilder", text_table(folder / "werte.csv", rows, ";"), column="score", kind="regression")


def windows_paths(folder: Path, films: list[Film]) -> OwnData:
    """Absolute paths of another computer, of Windows and of this one."""
    rows = [["path", "patient_id", "diagnosis"]]
    for film in films:
        path = copied(film, folder / "images" / film.label / f"{film.subject}.png")
        written = str(path) if film.number % 2 else f"D:\\Study\\images\\{film.label}\\{film.subject}.PNG"
        rows.append([written, film.subject, film.label])
    table = text_table(folder / "paths.csv", rows)
    return OwnData(folder / "images", table, column="diagnosis", classes=sorted({f.label for f in films}))


def class_folders(folder: Path, films: list[Film]) -> OwnData:
    """A folder for each class; the names of the files are those of the camera."""
    for film in films:
        copied(film, folder / "photos" / film.label / f"IMG_{4000 + film.number}.png")
    return OwnData(folder / "photos", classes=sorted({f.label for f in films}), subjects_known=False)


def class_folders_with_table(folder: Path, films: list[Film]) -> OwnData:
    """The same, with a table that names the files and their classes."""
    data, rows = class_folders(folder, films), [["file", "diagnosis"]]
    rows += [[path.relative_to(data.images).as_posix(), path.parent.name] for path in data.images.rglob("*.png")]
    return replace(data, table=text_table(folder / "photos.csv", rows), column="diagnosis")


def names_with_subjects(folder: Path, films: list[Film]) -> OwnData:
    """A folder for each class, with the subject and the visit in the names of the files."""
    kept = [f for f in films if f.label != films[0].label]
    subjects = {f.subject: f"P{(i + 2) // 2:03}" for i, f in enumerate(sorted(kept, key=lambda f: f.label))}
    for film in kept:
        visit = 4 * (film.number % 2) if [*subjects.values()].count(subjects[film.subject]) > 1 else 0
        while (path := folder / "photos" / film.label / f"{subjects[film.subject]}_week{visit}.png").exists():
            visit += 4
        copied(film, path)
    return OwnData(folder / "photos", count=16, cases=16, subjects=8, classes=sorted({f.label for f in kept}))


def dicom_series(folder: Path, films: list[Film]) -> OwnData:
    """A folder of DICOM slices for each patient, and a table of diagnoses by patient."""
    from tests.plugins.volumes.test_dicom import series, volume

    rows = [["PatientID", "diagnosis"]]
    for film in films[:12]:
        own = {"PatientID": film.subject, "SeriesInstanceUID": f"1.2.{film.number}"}
        series(folder / "scans" / film.subject, volume(film.number), **own)
        rows.append([film.subject, "cyst" if film.number % 2 else "none found"])
    count: Any = dict.fromkeys(("subjects", "cases", "count"), 12)
    table = text_table(folder / "diagnoses.csv", rows)
    return OwnData(folder / "scans", table, column="diagnosis", classes=["cyst", "none found"], **count)


def two_files_a_visit(folder: Path, films: list[Film]) -> OwnData:
    """A row for each visit, with the names of two files."""
    rows = [["record_id", "visit", "img_left", "img_right", "severity_score"]]
    for pair in range(0, len(films), 2):
        subject, visit = f"R{pair // 4 + 1}", f"v{pair // 2 % 2 + 1}"
        names = [f"{subject}_{visit}_{side}.png" for side in ("L", "R")]
        for film, name in zip(films[pair : pair + 2], names, strict=True):
            copied(film, folder / "films" / name)
        rows.append([subject, visit, *names, f"{1.5 * pair + 0.25}"])
    table = text_table(folder / "visits.csv", rows)
    return OwnData(folder / "films", table, column="severity_score", kind="regression", subjects=6, cases=12)


def files_named_by_visits(folder: Path, films: list[Film]) -> OwnData:
    """A row for each visit without names of files: they begin with the subject and the visit."""
    data = two_files_a_visit(folder, films)
    lines = [line.split(",") for line in data.table.read_text().splitlines()]
    text_table(data.table, [[*line[:2], line[4]] for line in lines])
    return data


def missing_images(folder: Path, films: list[Film]) -> OwnData:
    """Four rows have no image, one image has no row, and some labels are unknown."""
    rows = [["filename", "pid", "class", "sex"]]
    for film in films:
        if film.number > 4:
            copied(film, folder / "films" / f"{film.number}.png")
        label = film.label if film.number != 5 else "n/a"
        rows.append([f"{film.number}.png", film.subject, label, "MF"[film.number % 2]])
    copied(films[0], folder / "films" / "extra.png")
    table, classes = text_table(folder / "cases.csv", rows), sorted({f.label for f in films})
    return OwnData(folder / "films", table, column="class", subjects=19, cases=19, count=19, classes=classes)


Builder = Callable[[Path, list[Film]], OwnData]
OF_TABLES = (
    other_column_names,
    decimal_commas,
    windows_paths,
    two_files_a_visit,
    files_named_by_visits,
    missing_images,
    class_folders_with_table,
)
OF_FOLDERS = (class_folders, names_with_subjects, dicom_series)
CASES: dict[str, Builder] = {function.__name__: function for function in (*OF_TABLES, *OF_FOLDERS)}
# The one edit with which a study ends within a test: smaller images and a shorter training.
EDIT: dict[str, Any] = {
    "images": {"size": 32},
    "split": {"folds": 2, "restarts": 20},
    "recipe": {"epochs": 1},
    "audit": {"permutations": 99},
    "evaluation": {"bootstrap_resamples": 100},
    "compute": {"precision": "fp32"},
}
