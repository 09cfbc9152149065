"""The networks of a run folder that predict together: all of its study, with the inputs that the folder records."""

from __future__ import annotations

from casewise.errors import RunError, counted
from casewise.files import checksum, text_hash
from casewise.run_folder import JobFolder, RunFolder
from casewise.study.learners import learner_named, name_of_fold
from casewise.study.loading import saved_study
from casewise.study.schema import Study


def first_weights_checksum(study: Study, model: str) -> str:
    """The SHA-256 of the files of first weights that `model` starts from; empty if there is no such file."""
    return " ".join(checksum(file) for file in learner_named(model).weight_files(study))


def job_fingerprint(fingerprint: str, study: Study, model: str, first_weights: str) -> str:
    """The run's fingerprint with what identifies `model`, and the checksum of the first weights that it starts from."""
    text = f"{fingerprint} {learner_named(model).identity(study)} {first_weights}"
    return text_hash(text)


def predicting_members(folder: RunFolder) -> list[JobFolder]:
    """The folders of the networks that predict new cases: the folds' networks, or the ones trained on all folds.

    Raises:
        RunError: as `members_of`, or a network on all folds is missing, incomplete or has other inputs.
    """
    members = members_of(folder)
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    if study.final != "refit":
        return members
    by_learner = {record["model"]: record["fingerprint"] for record in (member.record.read() for member in members)}
    final = [folder.final_job(name) for name in study.learners]
    lacking = [name for name, job in zip(study.learners, final, strict=True) if not job.finished(by_learner[name])]
    if lacking:
        raise RunError(
            f"{folder.path} is not a finished run: networks on all folds (`final: refit`) are missing "
            f"({', '.join(lacking[:5])}). Run the study again."
        )
    for job in final:
        job.check_complete()
    return final


def members_of(folder: RunFolder) -> list[JobFolder]:
    """The folders of all networks of the run's study, backbone by backbone and fold by fold.

    A file of first weights may have been moved since; its checksum is in the records, equal for all folds of a network.

    Raises:
        RunError: the folder holds a comparison by image, or a network is missing, incomplete or has other inputs.
    """
    folder.refuse_image_split()
    needed = (folder.study, folder.splits, folder.fingerprint)
    if absent := next((file.path.name for file in needed if not file.exists()), None):
        raise RunError(
            f"{folder.path} contains no trained networks: it is neither a run folder ({absent} is missing) nor the "
            "folder of a network."
        )
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    folds, fingerprint = folder.splits.read()["folds"], folder.fingerprint.read()["fingerprint"]
    members, missing, stale = [], [], []
    for network in study.learners:
        expected = ""
        for fold in range(folds):
            job, name = folder.job(network, fold), name_of_fold(network, fold, alone=study.split.holdout)
            if not job.record.exists():
                missing.append(name)
                continue
            job.check_complete()
            record = job.record.read()
            expected = expected or job_fingerprint(fingerprint, study, network, record.get("first_weights", ""))
            if not job.finished(expected):
                stale.append(name)
            members.append(job)
    if missing or stale:
        reasons = [
            f"{len(names)} of {counted(folds * len(study.learners), 'learner')} {reason} ({'; '.join(names[:5])})"
            for names, reason in ((missing, "are not trained"), (stale, "have other inputs"))
            if names
        ]
        raise RunError(f"{folder.path} is not a finished run: {' and '.join(reasons)}. Run the study again.")
    return members
