"""From a study to its jobs, and the fingerprint that tells whether a run folder belongs to this study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import RunError
from casewise.files import write_json

if TYPE_CHECKING:
    from casewise.cohort import Cohort
    from casewise.split import Splits
    from casewise.study import Study


@dataclass(frozen=True)
class Job:
    """One network to train: a backbone on all folds but one."""

    model: str
    fold: int
    folder: Path
    fingerprint: str

    @property
    def finished(self) -> bool:
        """Whether the job's result stands, made from the same inputs."""
        record = self.folder / "job.json"
        return record.is_file() and json.loads(record.read_text())["fingerprint"] == self.fingerprint


def expand(study: Study, splits: Splits, folder: Path, fingerprint: str) -> list[Job]:
    """All jobs of a study, backbone by backbone."""
    return [
        Job(model, fold, folder / "jobs" / model.replace(":", "_").replace("/", "_") / f"fold{fold + 1}", fingerprint)
        for model in study.backbones
        for fold in range(splits.folds)
    ]


def what_decides(study: Study, cohort: Cohort, splits: Splits, address: str) -> dict[str, Any]:
    """Everything that decides a network's bits, by name: study settings, the tiles, the truth, the split."""
    plain = study.model_dump(mode="json")
    names = ["panels", "targets", "predict", "recipe", "weights", "pretrain", "test_flips", "seed", "missing_regions"]
    decided = {name: plain[name] for name in names}
    decided["scores"] = {n: plain["scores"][n] for n in study.outputs if n in study.scores}
    table = cohort.panels[["case", "region", "tiles", *study.targets]]
    text = json.dumps(table.to_dict("list"), default=_plain, sort_keys=True)
    decided["cohort"] = hashlib.sha256(text.encode()).hexdigest()
    decided["tiles"] = address
    decided["split"] = splits.hash
    return decided


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value)


def claim(folder: Path, decided: Mapping[str, Any]) -> str:
    """Note in the run folder what its networks are made from, and return the fingerprint.

    Raises:
        RunError: the folder holds networks made from something else; it says what changed.
    """
    path = folder / "fingerprint.json"
    fingerprint = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [line for key in decided for line in _differences(key, before["decided"].get(key), decided[key])]
        if changed and any((folder / "jobs").glob("*/*/job.json")):
            raise RunError(
                f"{folder} holds networks of another study: {'; '.join(changed[:4])}. Results of both must not be "
                "mixed. Give another folder with --out, or take the change back."
            )
    write_json(path, {"fingerprint": fingerprint, "decided": dict(decided)})
    return fingerprint


def _differences(place: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line for key in {**before, **now} for line in _differences(f"{place}.{key}", before.get(key), now.get(key))
        ]
    if before == now:
        return []
    plain = {
        "cohort": "rows or targets of the cohort table",
        "tiles": "images or their preparation",
        "split": "the split",
    }
    return [f"{plain[place]} changed" if place in plain else f"{place} was {before!r} and is {now!r}"]


def write_progress(job: Job, done: int, total: int, stage: str = "training") -> None:
    """Leave a note for the progress bar."""
    job.folder.mkdir(parents=True, exist_ok=True)
    note = job.folder / ".progress.partial"
    note.write_text(json.dumps({"done": done, "total": total, "stage": stage}))
    note.replace(job.folder / "progress.json")
