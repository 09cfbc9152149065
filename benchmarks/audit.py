"""The time of an audit of 1,500 chest films, compared with a script that compares hashes pair by pair.

The films are synthetic. Embeddings are computed if the folder of pretrained weights exists beside the checkout.

With `--copies`, instead: 120 copies of each kind of `casewise.plugins.phantoms.chest.TWIN_KINDS` are made of 1,000
films, and the copies that the audit pairs with their original and the pairs of different films are counted. `--table`
names a table with the column `path` (and `subject`), whose images are copied instead of synthetic films. Pairs of
images of one subject are not false; pairs of two subjects are listed, because published images contain unmarked copies.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

FILMS, SIZE = 1500, 224
COPIED, COPIES = 1000, 120
WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights"


def by_hand(paths: list[str]) -> tuple[float, float]:
    """A simple script: a difference hash of every file with Pillow, and a loop over all pairs."""
    from PIL import Image

    start = time.perf_counter()
    hashes = []
    for path in paths:
        small = Image.open(path).convert("L").resize((9, 8))
        values = [small.getpixel((x, y)) for y in range(8) for x in range(9)]
        bits = [values[9 * row + i] > values[9 * row + i + 1] for row in range(8) for i in range(8)]
        hashes.append(sum(bit << position for position, bit in enumerate(bits)))
    hashed = time.perf_counter()
    close = 0
    for number, first in enumerate(hashes):
        for second in hashes[number + 1 :]:
            close += (first ^ second).bit_count() <= 4
    return hashed - start, time.perf_counter() - hashed


def written_copies(paths: list[str], folder: Path, each: int) -> list[tuple[str, int, str]]:
    """Write `each` copies of each kind of these images: the path of the copy, the number of its original, the kind."""
    import numpy as np
    from PIL import Image

    from casewise.plugins.phantoms.chest.twins import ALTERED
    from casewise.plugins.phantoms.folder import encoded

    order, copies = np.random.default_rng(1), []
    for kind, alter in ALTERED.items():
        for number in order.permutation(len(paths))[:each].tolist():
            random = np.random.default_rng([2, number])
            source = Path(paths[number])
            suffix = source.suffix if kind == "exact" else ".jpg" if kind == "recompressed" else ".png"
            target = folder / f"{kind}-{number}{suffix}"
            if kind == "exact":
                target.write_bytes(source.read_bytes())
            else:
                altered = alter(random, [np.asarray(Image.open(source).convert("RGB"))])[0]
                quality = {"quality": int(random.integers(30, 61))} if kind == "recompressed" else {}
                target.write_bytes(encoded(altered, suffix, **quality))
            copies.append((str(target), number, kind))
    return copies


def count_copies(table: Path | None, films: int, each: int) -> None:
    """Print the share of copies that are found, by kind, and the pairs of different films."""
    import numpy as np
    import pandas as pd

    from casewise.audit.twins import find_twins
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.plugins.phantoms.chest import make_chest

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = table or make_chest(folder / "films", subjects=films, size=(SIZE, SIZE), seed=1)
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        if "duplicate_of" in rows:
            rows = rows[rows["duplicate_of"] == ""]
        rows = rows.iloc[np.sort(np.random.default_rng(0).permutation(len(rows))[:films])]
        paths = [str(table.parent / path) for path in rows["path"]]
        people = rows["subject"].tolist() if "subject" in rows else list(map(str, range(len(rows))))
        (folder / "copies").mkdir()
        copies = written_copies(paths, folder / "copies", min(each, len(paths)))
        original = [*range(len(paths)), *(number for _, number, _ in copies)]
        files = [*paths, *(path for path, _, _ in copies)]
        subjects = [*people, *(f"copy {number}" for number in range(len(copies)))]
        store = prepare([Path(file) for file in files], Preparation(size=SIZE, channels="rgb"), folder / "tiles")
        start = time.perf_counter()
        twins = find_twins(store, pd.DataFrame({"path": files, "subject": subjects}))
        seconds = time.perf_counter() - start
    pairs = {(twin.i, twin.j) for twin in twins}
    print(f"{len(paths):,} images and {len(copies):,} copies, {seconds:.0f} s")
    for kind in dict.fromkeys(kind for _, _, kind in copies):
        numbers = [(number, len(paths) + row) for row, (_, number, of) in enumerate(copies) if of == kind]
        print(f"  {kind:<14} {sum(pair in pairs for pair in numbers):4d} of {len(numbers)}")
    false = [pair for pair in pairs if people[original[pair[0]]] != people[original[pair[1]]]]
    between = sorted({tuple(sorted((original[i], original[j]))) for i, j in false})
    print(f"  pairs of images of two subjects: {len(between)}")
    for i, j in between[:20]:
        print(f"    {Path(paths[i]).name} and {Path(paths[j]).name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--copies", action="store_true", help="count altered copies that are found")
    parser.add_argument("--table", type=Path, help="a table of images to copy instead of synthetic films")
    parser.add_argument("--films", type=int, default=COPIED, help="number of images to copy from")
    parser.add_argument("--each", type=int, default=COPIES, help="number of copies of each kind")
    options = parser.parse_args()
    if options.copies:
        count_copies(options.table, options.films, options.each)
    else:
        time_audit()


def time_audit() -> None:
    """Print the seconds of an audit and of its steps."""
    from joblib import cpu_count

    from casewise.audit.run import audit
    from casewise.console import Silent
    from casewise.models.embeddings import embedder
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
    from casewise.plugins.phantoms.chest import make_chest
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import split
    from casewise.study.loading import build_study

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = make_chest(folder / "films", subjects=FILMS // 3, images=3, size=(SIZE, SIZE), seed=1)
        values: dict[str, Any] = {
            "name": "audit",
            "cohort": str(table),
            "images": {"size": SIZE, "channels": "grey"},
            "panels": {"by": "image"},
            "targets": {"label": ["covid", "no_finding", "pneumonia"]},
            "audit": {"mask": "lung_mask"},
            "backbones": ["mobilenet_v2"],
            "evaluation": {"response": False},
        }
        if WEIGHTS.is_dir():
            values["weights_dir"] = str(WEIGHTS)
        study = build_study(values, source="benchmark", folder=folder)
        cohort = read(study, None, Silent())
        tiles = prepare(study, cohort, RunFolder(folder), Silent())
        sides = split(cohort, study).side
        start = time.perf_counter()
        embed = embedder(study, tiles)
        result = audit(study, cohort, tiles, sides, embed=embed)
        seconds = time.perf_counter() - start
        hashing, comparing = by_hand(list(cohort.images["path"]))
    network = embed.origin if embed else "without embeddings: no weights available"
    print(f"audit of {len(cohort.images):,} films of {SIZE} px, {cpu_count()} cores, {network}")
    print(f"  whole audit                      {seconds:7.1f} s   (aim: below 60)")
    for step, step_seconds in result.seconds.items():
        print(f"    {step:<30} {step_seconds:7.1f} s")
    twins, script = result.seconds["twins"], hashing + comparing
    print(f"  script with hashes and loops     {script:7.1f} s   {script / twins:.1f}× the search for twins")
    print(f"    of which comparing             {comparing:7.1f} s   (without verification)")


if __name__ == "__main__":
    main()
