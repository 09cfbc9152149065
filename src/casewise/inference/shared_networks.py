"""Networks copied into a bundle that is shared: weights unchanged, facts without names of subjects and paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from casewise.cohort.identity import pseudonym
from casewise.files import write_json
from casewise.run_folder.bundle_folder import link_or_copy

if TYPE_CHECKING:
    from casewise.run_folder import BundleFolder, JobFolder

# A path in the clause on the origin of first weights, which follows one of these words.
_PATH = re.compile(r"\b(file|bundle) ([^;,]*[/\\][^;,]*)")
_OF_SUBJECTS = ("subjects", "stop_subjects", "earlier_subjects")


def share_networks(target: BundleFolder, members: Sequence[JobFolder], salt: str) -> list[dict[str, Any]]:
    """Put networks into a bundle, their weights as further names of the same files where possible.

    Args:
        salt: of the hashes in place of subjects' names (see `casewise.cohort.identity`).

    Returns:
        For each network its `learner` and `fold`, from 1; None if it was trained on all folds.
    """
    entries = []
    for member in members:
        facts = member.facts.read()
        fold = None if facts.get("final") else facts["fold"]
        copy = target.member(facts["model"], None if fold is None else fold - 1)
        copy.path.mkdir(parents=True)
        link_or_copy(member.weights.verified(), copy.weights.path)
        if facts.get("distance"):
            link_or_copy(member.distance.verified(), copy.distance.path)
        write_json(copy.facts.path, shared_facts(facts, salt))
        entries.append({"learner": facts["model"], "fold": fold})
    return entries


def shared_facts(facts: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """The facts of a network with hashes in place of subjects' names, and without paths of the user's files."""
    hashed = {
        name: sorted(pseudonym(subject, salt) for subject in facts[name]) for name in _OF_SUBJECTS if name in facts
    }
    return {**facts, **hashed, "weights": without_paths(str(facts["weights"]))}


def without_paths(text: str) -> str:
    """A clause on the origin of weights with the names of files in place of their paths.

    >>> without_paths("bundle /data/a b/fold1, itself from file C:\\\\w\\\\resnet18.safetensors; adapted")
    'bundle fold1, itself from file resnet18.safetensors; adapted'
    """

    def name(match: re.Match[str]) -> str:
        path = match[2].strip()
        last = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
        return f"{match[1]} {last}"

    return _PATH.sub(name, text)
