"""Executes the tutorials and takes their pictures again; it needs Chromium and takes some minutes.

`pictures.py slides volumes` does so for some of them; `serve` continues where `photographs` ends. `--folder FOLDER`
keeps what they write, in a new folder.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from tutorial_commands import Shell

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
TUTORIALS = ("photographs", "xrays", "slides", "volumes", "serve")
DESKTOP, PHONE = (1280, 860), (390, 780)
WIDEST, LARGEST = 1000, 150_000
CHROMIUM_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
WAIT = 120_000


def main() -> None:
    """Execute the tutorials in their order, and write the pictures of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(TUTORIALS), metavar="NAME", help=", ".join(TUTORIALS))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with Shell(folder, port=free_port()) as shell, browser() as opened:
            for name in options.names:
                page = (DOCS / f"tutorial-{name}.md").read_text(encoding="utf-8")
                for commands, _, output in shell.execute(page):
                    print(f"$ {commands}{output}", flush=True)
                PICTURES[name](folder, opened, shell)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM_OPTIONS))
        yield opened
        opened.close()


def save(picture: Image.Image, name: str) -> None:
    """Write a picture into `docs/images` as WebP, at most `WIDEST` pixels wide.

    Raises:
        ValueError: it has more than `LARGEST` bytes.
    """
    path = IMAGES / name
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    picture.convert("RGB").save(path, quality=80, method=6)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{name} has {path.stat().st_size:,} bytes; at most {LARGEST:,} are allowed.")


def montage(pictures: list[Image.Image], columns: int, *, size: tuple[int, int], gap: int = 4) -> Image.Image:
    """Pictures in rows of `columns`, each enlarged to fit `size`, on white."""
    width, height = size[0] + gap, size[1] + gap
    sheet = Image.new("RGB", (columns * width - gap, -(-len(pictures) // columns) * height - gap), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(ImageOps.fit(picture.convert("RGB"), size), (number % columns * width, number // columns * height))
    return sheet


def shot(page: Any, *, of: str = "") -> Image.Image:
    """The screen of a page, or its first element of a selector."""
    return Image.open(BytesIO(page.locator(of).first.screenshot() if of else page.screenshot()))


def report(folder: Path, opened: Any, study: str) -> Any:
    """The open report of a run."""
    page = opened.new_page(viewport=dict(zip(("width", "height"), DESKTOP, strict=True)))
    page.goto((folder / "runs" / study / "report.html").as_uri())
    return page


def photographs(folder: Path, opened: Any, shell: Shell) -> None:
    """The photographs of one visit, and the report."""
    visit = sorted((folder / "photographs" / "images" / "S01" / "week0").iterdir())
    save(montage([Image.open(path) for path in visit], 4, size=(192, 128)), "photographs-visit.webp")
    save(shot(report(folder, opened, "pasi")), "photographs-report.webp")


def xrays(folder: Path, opened: Any, shell: Shell) -> None:
    """Films with letters, and the report."""
    import pandas as pd

    films = pd.read_csv(folder / "marked-films" / "cases.csv")["path"].head(3)
    save(
        montage([Image.open(folder / "marked-films" / path) for path in films], 3, size=(240, 240)), "xrays-marked.webp"
    )
    save(shot(report(folder, opened, "films")), "xrays-report.webp")


def slides(folder: Path, opened: Any, shell: Shell) -> None:
    """The tiles of a slide, and the report."""
    page = report(folder, opened, "biopsies")
    save(shot(page), "slides-report.webp")
    save(shot(page, of="figure.slide"), "slides-tiles.webp")


def volumes(folder: Path, opened: Any, shell: Shell) -> None:
    """Slices through a lesion, the report, and the maps of some cases."""
    import nibabel
    import numpy as np
    import pandas as pd

    import casewise

    rows = pd.read_csv(folder / "scans" / "cohort.csv")
    rows = rows[(rows["grade"] == "high") & (rows["subject"] == rows.loc[rows["grade"] == "high", "subject"].iloc[0])]
    mask: Any = nibabel.load(folder / "scans" / rows["lesion"].iloc[0])
    centre = mask.affine @ [*np.argwhere(np.asarray(mask.dataobj)).mean(axis=0), 1]
    pictures = []
    for path in rows["path"]:
        scan: Any = nibabel.as_closest_canonical(nibabel.load(folder / "scans" / path))  # from left, back and foot
        plane = np.asarray(scan.dataobj, dtype=float)[:, :, round(float((np.linalg.inv(scan.affine) @ centre)[2]))]
        grey = 255 * np.clip((plane - plane.min()) / (np.percentile(plane, 99.5) - plane.min()), 0, 1)
        pictures.append(Image.fromarray(np.rot90(grey).astype("uint8")))
    save(montage(pictures, 2, size=(320, 320)), "volumes-scans.webp")
    save(shot(report(folder, opened, "pancreas")), "volumes-report.webp")
    maps = casewise.open_run(folder / "runs" / "pancreas").explain(str(rows["subject"].iloc[0]))
    maps.figure().savefig(folder / "maps.png", dpi=144)
    save(Image.open(folder / "maps.png"), "volumes-saliency.webp")


def serve(folder: Path, opened: Any, shell: Shell) -> None:
    """The results of a visit, its saliency maps, and the course on a phone."""
    for width, height in (DESKTOP, PHONE):
        page = opened.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(WAIT)
        page.goto(f"http://127.0.0.1:{shell.port}/")
        subject = folder / "new-photographs" / "images" / "S01"
        visits = sorted(path.name for path in subject.iterdir())
        for number, visit in enumerate(visits):
            if number:
                page.get_by_role("button", name="Add a visit").click()
            box = page.get_by_role("group", name=f"Visit {number + 1}")
            box.get_by_label("Name").fill(visit)
            box.get_by_label("Day").fill(str(28 * number))
            for region in ("upper", "trunk", "lower"):
                files = [str(path) for path in sorted((subject / visit).glob(f"{region}_*"))]
                box.get_by_label(f"Choose files of {region}").set_input_files(files)
        page.get_by_role("button", name="Predict").click()
        title = page.get_by_role("heading", name="Results")
        title.wait_for()
        if width == PHONE[0]:
            title.evaluate("element => element.scrollIntoView()")
            save(shot(page), "serve-phone.webp")
            return
        save(shot(page, of=f'article:has(:text-is("{visits[0]}")):has-text("erythema")'), "serve-results.webp")
        page.get_by_role("button", name="Show saliency").click()
        maps = page.get_by_role("img", name="Saliency map over")
        maps.first.wait_for()
        maps.first.evaluate("element => element.scrollIntoView({block: 'center'})")
        save(shot(page), "serve-saliency.webp")


PICTURES: dict[str, Callable[[Path, Any, Shell], None]] = {
    "photographs": photographs,
    "xrays": xrays,
    "slides": slides,
    "volumes": volumes,
    "serve": serve,
}

if __name__ == "__main__":
    main()
