"""A session with photographs, a film and a scan, and a service that answers its page, in tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casewise.plugins.readers.form import Form, FormField, Option
from casewise.plugins.readers.rating.server import RateSettings, application
from casewise.plugins.readers.rating.sessions import Item, ItemImage, Session
from casewise.plugins.readers.rating.store import ReadingStore, SessionFacts
from casewise.plugins.readers.settings import AREA, SEVERITY
from casewise.web.server import bound, server_of
from tests.film_files import write_film

# Values that must never reach a reader.
SECRETS = ("Mustermann", "P-4711", "week-12")
TOKENS = {"anna": "token-of-anna", "ben": "token-of-ben"}


def options(texts: dict[str, str]) -> tuple[Option, ...]:
    return tuple(Option(value, text) for value, text in texts.items())


def grade(target: str, region: str = "", texts: dict[str, str] = SEVERITY) -> FormField:
    key = f"{target}[{region}]" if region else target
    return FormField(key, target, region, target, "ordinal", options(texts))


EXTENT = FormField("extent", "extent", "", "extent", "regression", low=0, high=8, step=0.5)
PASI = tuple(
    grade(name, region) for region in ("upper", "trunk") for name in ("erythema", "induration", "desquamation")
)
PASI = tuple(
    field
    for region in ("upper", "trunk")
    for field in (*(f for f in PASI if f.region == region), grade("area", region, AREA))
)
REASONS = ("poor quality", "wrong view or body part", "other")
FORM = Form(PASI, REASONS, 50)
MIXED = Form(
    (
        EXTENT,
        grade("grade"),
        FormField("kind", "kind", "", "kind", "classification", options({"naevus": "", "melanoma": ""})),
    ),
    REASONS,
    5,
)


def photograph(path: Path, seed: int, size: tuple[int, int] = (60, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 200, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def film(path: Path, seed: int, **options: Any) -> Path:
    pixels = np.random.default_rng(seed).integers(200, 4000, (64, 48), np.uint16)
    return write_film(path, pixels, bits=12, **options)


def scan(path: Path, shape: tuple[int, int, int] = (20, 24, 9)) -> Path:
    """A NIfTI file of thick axial slices whose value tells the position: 100 z + 10 y + x, in RAS."""
    import nibabel

    x, y, z = np.indices(shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image((100 * z + 10 * y + x).astype(np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    image.to_filename(path)
    return path


def items_in(folder: Path, count: int, kinds: str = "photo") -> dict[str, Item]:
    """Items of two images each, whose keys, folders and subjects are secrets; a case is one subject at one visit."""
    items = {}
    for number in range(count):
        subject, key = f"{SECRETS[0]}-{number // 2}", f"{SECRETS[1]}-{number} {SECRETS[2]}"
        parent = folder / SECRETS[0] / f"{SECRETS[1]}-{number}"
        if kinds == "photo":
            images = [ItemImage(photograph(parent / f"{region}.jpg", number), region) for region in ("upper", "trunk")]
        else:
            images = [ItemImage(film(parent / "a.dcm", number), ""), ItemImage(scan(parent / "b.nii.gz"), "")]
        items[key] = Item(key, key, subject, number % 2, tuple(images))
    return items


def session_of(items: dict[str, Item], form: Form = FORM, **changes: Any) -> Session:
    first = Session("main", "blind", form, items, [list(items)], {}, seed=1, repeat=0.0, longitudinal=False)
    return replace(first, **changes)


def store_of(folder: Path, session: Session) -> ReadingStore:
    """A store that knows the session."""
    store = ReadingStore(folder)
    store.begin(session.name, session.kind, SessionFacts(0, 0.0, longitudinal=False))
    store.add_form(session.form.version, session.form.as_json())
    return store


@dataclass
class Reading:
    """A service that answers at `url`; it can be killed and started again at the same port."""

    session: Session
    store: ReadingStore
    settings: RateSettings
    url: str = ""
    _stop: Any = None

    def start(self) -> "Reading":
        listening = bound(self.settings.host, self.settings.port)
        port = listening.getsockname()[1]
        self.settings, self.url = replace(self.settings, port=port), f"http://127.0.0.1:{port}/"
        server = server_of(application(self.session, self.store, self.settings), self.settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop() -> None:
            server.should_exit = server.force_exit = True
            thread.join()
            listening.close()

        self._stop = stop
        return self

    def stop(self) -> None:
        if self._stop:
            self._stop()
            self._stop = None

    def values(self, reader: str = "anna") -> dict[str, dict[str, str | None]]:
        """What is stored, by item and field."""
        current = self.store.current(self.session.name, reader)
        return {key: {name: entry.value for name, entry in values.items()} for (key, _), values in current.items()}


@contextmanager
def reading(session: Session, folder: Path, secrets: dict[str, str] | None = None) -> Iterator[Reading]:
    """A service on a free port, of one reader at this computer unless readers with tokens are stated."""
    store = store_of(folder, session)
    settings = RateSettings(port=0, readers=tuple(secrets or ("anna",)), secrets=secrets or {})
    service = Reading(session, store, settings).start()
    try:
        yield service
    finally:
        service.stop()
        store.close()
