"""The time of an audit of 1,500 chest films, compared with a script that compares hashes pair by pair.

The films are synthetic. Embeddings are computed if the folder of pretrained weights exists beside the checkout.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

FILMS, SIZE = 1500, 224
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


def main() -> None:
    from joblib import cpu_count

    from casewise.audit.run import audit
    from casewise.console import Silent
    from casewise.models.embeddings import embedder
    from casewise.phantoms.chest import make_chest
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
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
