"""One Orthanc for the tests of a session."""

from collections.abc import Iterator

import pytest

from tests.plugins.node.orthanc import Orthanc, running_orthanc


@pytest.fixture(scope="session")
def shared_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that runs as long as the session; see `orthanc`."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as pacs:
        yield pacs


@pytest.fixture
def orthanc(shared_orthanc: Orthanc) -> Iterator[Orthanc]:
    """An Orthanc without studies."""
    yield shared_orthanc
    for study in shared_orthanc.ask("/studies"):
        shared_orthanc.ask(f"/studies/{study}", method="DELETE")
