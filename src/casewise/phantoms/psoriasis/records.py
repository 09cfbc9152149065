"""What a phantom's folder says about itself: its marks, its table of visits, and the truth behind the pictures."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from casewise.errors import CasewiseError
from casewise.files import write_atomic, write_json
from casewise.phantoms.psoriasis.poses import PHOTOGRAPHS
from casewise.phantoms.psoriasis.severity import WEEKS_BETWEEN_VISITS, Grades, TrainingContext, weighted_score
from casewise.phantoms.psoriasis.subjects import Subject, subject
from casewise.phantoms.streams import stream

Labels = Literal["true", "shuffled"]

MARK = "synthetic phantom - not a patient"
COLUMNS = (
    "path",
    "subject",
    "visit",
    "day",
    "region",
    "erythema",
    "induration",
    "scaling",
    "area",
    "skin_tone",
    "site",
    "synthetic",
)
README = f"""Synthetic phantom cohort: {MARK}.

Every photograph in this folder was drawn by casewise from random numbers. No person was photographed, and nothing here
may be used to judge how well a model does on patients.

visits.csv    one row a photograph; severities 0-4 and area 0-6 as a physician with a little noise would read them
phantom.json  the settings, the seed, and the truth: continuous severities and the covered share of the skin
images/       <subject>/<visit>/<region>_<n>.jpg, each marked as synthetic in its EXIF data and its JPEG comment
"""


@dataclass(frozen=True)
class PhantomSettings:
    """What decides every byte of the cohort."""

    subjects: int
    visits: int
    size: tuple[int, int]
    seed: int
    head: bool
    labels: Labels

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are photographed, in the order of the table."""
        return ("upper", "trunk", "lower", "head") if self.head else ("upper", "trunk", "lower")


def claim_folder(folder: Path, settings: PhantomSettings) -> None:
    """Write the folder's marks first, so that even half a phantom says what it is; refuse somebody's own data."""
    note = folder / "phantom.json"
    if folder.exists() and not folder.is_dir():
        raise CasewiseError(f"{folder} is a file; the phantom needs a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not _is_phantom(note):
        raise CasewiseError(f"{folder} already holds files that are not a phantom; choose an empty or a new folder.")
    # An older table must not describe pictures that are being replaced.
    (folder / "visits.csv").unlink(missing_ok=True)
    write_json(note, _note(settings, complete=False))
    write_atomic(folder / "README.txt", README)


def _note(settings: PhantomSettings, *, complete: bool) -> dict[str, Any]:
    marks = {"synthetic": True, "kind": "psoriasis", "mark": MARK}
    return marks | {"settings": asdict(settings), "seed": settings.seed, "complete": complete}


def _is_phantom(note: Path) -> bool:
    try:
        return bool(json.loads(note.read_text(encoding="utf-8")).get("synthetic"))
    except (OSError, ValueError, AttributeError):
        return False


def _visit_name(visit: int) -> str:
    return f"week{visit * WEEKS_BETWEEN_VISITS}"


def photograph_path(who: Subject, visit: int, region: str, number: int) -> str:
    """Return where a photograph lies, relative to the cohort's folder."""
    return f"images/{who.name}/{_visit_name(visit)}/{region}_{number}.jpg"


def labels_given(settings: PhantomSettings, courses: list[TrainingContext]) -> list[tuple[dict[str, Grades], ...]]:
    """Return for each subject its labels by visit and region: its own, or another subject's in another order."""
    if settings.labels == "true":
        return [one.physician for one in courses]
    random = stream(settings.seed, "shuffled labels", settings.subjects)
    ring = random.permutation(settings.subjects)
    labels: dict[int, tuple[dict[str, Grades], ...]] = {}
    for place, number in enumerate(ring):
        # The next one in a random ring is never oneself.
        given = courses[ring[(place + 1) % len(ring)]].physician
        labels[int(number)] = tuple(given[visit] for visit in random.permutation(settings.visits))
    return [labels[number] for number in range(settings.subjects)]


def write_table(folder: Path, settings: PhantomSettings, courses: list[TrainingContext]) -> Path:
    """Write the truth into `phantom.json` and one row a photograph into `visits.csv`; return the latter."""
    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    for number, (one, labels) in enumerate(zip(courses, labels_given(settings, courses), strict=True)):
        who = subject(settings.seed, number)
        people.append(
            {
                "subject": who.name,
                "response": one.response,
                "skin_tone": who.skin_tone,
                "site": who.site,
                "visits": [_truth(one, visit) for visit in one.attended],
            }
        )
        for visit in one.attended:
            for region in settings.regions:
                for n in range(1, PHOTOGRAPHS[region] + 1):
                    rows.append(
                        {
                            "path": photograph_path(who, visit, region, n),
                            "subject": who.name,
                            "visit": _visit_name(visit),
                            "day": visit * WEEKS_BETWEEN_VISITS * 7,
                            "region": region,
                            **asdict(labels[visit][region]),
                            "skin_tone": who.skin_tone,
                            "site": who.site,
                            "synthetic": 1,
                        }
                    )
    truth = {"photographs": len(rows), "subjects": people}
    write_json(folder / "phantom.json", _note(settings, complete=True) | truth)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return write_atomic(folder / "visits.csv", text.getvalue())


def _truth(one: TrainingContext, visit: int) -> dict[str, Any]:
    """Return what is known of a visit: continuous severities, covered share, noiseless grades and physician's."""
    regions = {
        region: {
            "severity": {name: round(value, 4) for name, value in asdict(severity).items()},
            "covered_share": round(severity.share, 4),
            "grades": asdict(severity.grades),
            "physician": asdict(one.physician[visit][region]),
        }
        for region, severity in one.truth[visit].items()
    }
    score = weighted_score({region: severity.grades for region, severity in one.truth[visit].items()})
    return {"visit": _visit_name(visit), "day": visit * WEEKS_BETWEEN_VISITS * 7, "score": score, "regions": regions}
