"""The formats of results. A new format is a class with the members of `ResultFormat`, registered in `FORMATS`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Protocol

from casewise.errors import CasewiseError, cut, nearest
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts
from casewise.plugins.hospital.dicom_sr import DicomSr
from casewise.plugins.hospital.fhir import Fhir


class ResultFormat(Protocol):
    """A format of results.

    Attributes:
        name: what the command line calls it.
        title: what people call it.
        ending: that of its files.
        packages: the modules that it needs beyond those of casewise.
    """

    name: str
    title: str
    ending: str
    packages: tuple[str, ...]

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """


FORMATS: dict[str, ResultFormat] = {each.name: each for each in (Fhir(), DicomSr())}


def format_named(name: str) -> ResultFormat:
    """The format of a name, after checking that its packages are installed.

    Raises:
        CasewiseError: there is none of this name, or a package is missing.
    """
    if name not in FORMATS:
        raise CasewiseError(f"--also: {cut(name)} is none of {', '.join(FORMATS)}.{nearest(name, FORMATS)}")
    missing = [package for package in FORMATS[name].packages if not _is_installed(package)]
    if missing:
        raise CasewiseError(f"--also {name} needs {' and '.join(missing)}: pip install 'casewise[hospital]'.")
    return FORMATS[name]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
