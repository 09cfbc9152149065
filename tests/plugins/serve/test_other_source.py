"""A service withholds confidence once its recent images are unlike the training, until somebody confirms the source."""

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from casewise.errors import CasewiseError, RunError
from casewise.inference.drift import FEWEST_CASES, FURTHER
from casewise.inference.flag_reasons import UNCONFIRMED
from casewise.plugins.serve.settings import ServiceSettings
from casewise.run import Run
from tests.film_files import film_bytes
from tests.plugins.serve.serving import Running, running

Films = list[bytes]
LOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "own": lambda film: film,
    "inverted": lambda film: 255 - film,
    "less contrast": lambda film: film // 3 + 80,
}
CONFIRMED = "A. Meyer, 24 films compared with the reading"


@pytest.fixture(scope="module")
def films(baseline_run: Run) -> dict[str, Films]:
    """A film of each of 34 subjects in each look."""
    paths = baseline_run.files.cohort.read().drop_duplicates("subject")["path"][:34]
    pixels = [np.asarray(Image.open(path).convert("L")) for path in paths]
    return {look: [png(change(each)) for each in pixels] for look, change in LOOKS.items()}


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(np.ascontiguousarray(pixels)).save(content := io.BytesIO(), "PNG")
    return content.getvalue()


@contextmanager
def serving(run: Run, **options: Any) -> Iterator[Running]:
    with running(ServiceSettings(run.folder / "bundle", **options)) as service:
        yield service


def answer(service: Running, film: bytes, name: str = "film.png") -> dict[str, Any]:
    done = httpx.post(f"{service.url}/api/predict", files={"image": (name, film)}, timeout=300)
    assert done.status_code == 200, done.text
    return dict(done.json())


def is_confident(answered: dict[str, Any]) -> bool:
    """Whether an answer has confidence; it has all of it or none, and says so in each place."""
    (visit,) = answered["visits"]
    (result,) = visit["results"]
    assert result["prediction"]
    shares = list(result["probabilities"].values())
    parts = [*shares, *[result[name] for name in ("prediction_low", "prediction_high", "spread")]]
    confident = None not in shares
    withheld = not any(part is not None for part in parts) and not result["prediction_set"]
    assert confident != withheld
    assert answered["source"]["withheld"] == withheld
    assert ("unconfirmed" in [flag["code"] for flag in visit["flags"]]) == withheld
    assert (UNCONFIRMED in result["flags"]) == withheld
    assert "recent" not in answered
    return confident


def state(service: Running) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/api/model").json()["source"])


def test_ordinary_films_keep_their_confidence(baseline_run: Run, films: dict[str, Films]) -> None:
    with serving(baseline_run) as service:
        assert all(is_confident(answer(service, film)) for film in films["own"])
        assert (state(service)["cases"], state(service)["warning"]) == (34, "")


@pytest.mark.parametrize("look", ["inverted", "less contrast"])
def test_films_of_another_source_lose_it_when_there_are_enough(
    tmp_path: Path, baseline_run: Run, films: dict[str, Films], look: str
) -> None:
    record = tmp_path / "record.json"
    with serving(baseline_run, record=record) as service:
        confident = [is_confident(answer(service, film)) for film in films[look][:32]]
        first = confident.index(False)
        assert first in (FEWEST_CASES - 1, FEWEST_CASES - 1 + FURTHER)
        assert not any(confident[first:])
        about = state(service)
        assert (about["before"], about["withheld"], bool(about["since"])) == (first, True, True)
        # a film like the training does not lift the warning of its source
        assert not is_confident(answer(service, films["own"][0]))
    assert record.stat().st_mode & 0o077 == 0
    with serving(baseline_run, record=record) as service:  # it does not begin again
        assert not is_confident(answer(service, films[look][33]))
        assert state(service)["since"] == about["since"]
    with serving(baseline_run, record=record, source_confirmed=CONFIRMED) as service:
        again = answer(service, films[look][33])
        assert is_confident(again)
        assert again["source"]["confirmed"]["by"] == "A. Meyer"
        assert "A. Meyer" in again["visits"][0]["results"][0]["interval_note"]
        at = state(service)["confirmed"]["at"]
    with serving(baseline_run, record=record, source_confirmed=CONFIRMED) as service:
        assert state(service)["confirmed"]["at"] == at
    with serving(baseline_run, record=record) as service:  # the confirmation was taken back
        assert not is_confident(answer(service, films[look][33]))


def test_requests_in_parallel_are_counted_once_each(baseline_run: Run, films: dict[str, Films]) -> None:
    with serving(baseline_run, workers=2, queue=30) as service, ThreadPoolExecutor(8) as pool:
        confident = [
            is_confident(each) for each in pool.map(lambda film: answer(service, film), films["less contrast"])
        ]
        # those that another worker had begun meanwhile
        assert sum(confident) <= FEWEST_CASES + 4
        assert state(service)["withheld"]
        assert not is_confident(answer(service, films["less contrast"][0]))


def test_few_images_or_one_subject_never_suffice(baseline_run: Run, films: dict[str, Films]) -> None:
    film = films["less contrast"][0]
    with serving(baseline_run) as service:
        # the same image, many visits of one request, and many requests about one patient
        assert all(is_confident(answer(service, film)) for _ in range(3))
        assert state(service)["cases"] == 1
        files = [(f"{number}.image", ("film.png", each)) for number, each in enumerate(films["less contrast"], 1)]
        done = httpx.post(f"{service.url}/api/predict", files=files, timeout=300).json()
        assert not done["source"]["tested"]
        assert all(result["probabilities"] for visit in done["visits"] for result in visit["results"])
        for number, each in enumerate(films["less contrast"][:21]):
            pixels = np.asarray(Image.open(io.BytesIO(each)))
            uids = {f"{level}InstanceUID": f"1.2.{number + 1}.{level[:2] == 'St'}" for level in ("Study", "Series")}
            dicom = film_bytes(pixels, PatientID="P1", SOPInstanceUID=f"1.2.{number + 1}.9", **uids)
            assert is_confident(answer(service, dicom, "film.dcm"))
        assert not state(service)["warning"]


def test_a_record_of_something_else_is_refused(tmp_path: Path, baseline_run: Run) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"name": "another"}))
    with pytest.raises(RunError, match="--record"), serving(baseline_run, record=record):
        pass
    assert json.loads(record.read_text()) == {"name": "another"}
    with pytest.raises(CasewiseError, match="--source-confirmed"), serving(baseline_run, source_confirmed="A. Meyer"):
        pass
