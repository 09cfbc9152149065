"""How often neighbouring files with similar pictures are of one person, on packs whose persons are known.

    python benchmarks/patients.py --data DATA --weights FOLDER [--output docs/results/patients.md]

Names and persons are hidden: images are numbered in the order of the pack's table. Neighbours are joined if at most a
fraction of the pairs with distant numbers is as similar. The first half of the persons of each pack chooses the
fraction: the largest of seven at which most joined pairs of every pack are of one person. The second half judges.
Found: of all pairs of one person, those in one group. Strangers: of all pairs in one group, those of two persons. The
first table is of what `casewise init` does; the second compares scores, by the mean of the judging halves. The network
is a frozen MobileNetV2 on pictures of 128 pixels, whose features are pooled.

Of 140 persons of severity-covid 136 are in covid-cxr, so it is no further set. In histology-oral, severity-idrid and
photographs-skin persons are unknown, and nothing can be judged. The tables of the packs keep the images of a person
together; where numbers do not, or fewer neighbours are of one person, a guess finds less and joins more strangers.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pages import DATA, page_parser, publish, table

from casewise.modalities.store.readers import read_image
from casewise.models.encoders import Embedder, build_network, load_weights
from casewise.plugins.init.guessed_subjects import SIDE, TAIL, guess_subjects, picture_features, scaled

TAILS = (0.01, 0.02, 0.05, 0.075, 0.1, 0.15, 0.2)
PACKS = {
    "covid-cxr, cohen": "source == 'cohen' and duplicate_of == ''",
    "covid-cxr, nih": "source == 'nih' and duplicate_of == ''",
    "histology-hpylori": "path != ''",
    "mri-lgg, FLAIR": "sequence == 'flair'",
}
SINGLE = [[name] for name in ("colours", "border colours", "layout", "texture", "network")]
OWN = ["colours", "layout", "texture"]
HEADS = ["pack", "half", "images", "persons", "neighbours of one person", "found", "strangers"]


def rates(person: np.ndarray, features: np.ndarray, tail: float) -> tuple[float, float]:
    """The shares of the pairs of one person that are found, and of the joined pairs that are strangers."""
    guess = guess_subjects([f"{row:06}.jpg" for row in range(len(person))], features, tail=tail, permutations=30)
    groups = pd.DataFrame({"person": person, "group": guess.group if guess else np.arange(len(person))})
    both, one, joined = (
        float((sizes * (sizes - 1)).sum())
        for sizes in (groups.groupby(keys).size() for keys in (["person", "group"], ["person"], ["group"]))
    )
    return both / max(one, 1), 1 - both / max(joined, 1)


def blocks(paths: list[Path], weights: Path) -> dict[str, np.ndarray]:
    """The features (N, d) of each score."""
    pictures, network = [read_image(path, size=SIDE) for path in paths], build_network("mobilenet_v2", 1)
    load_weights(network, str(weights / "mobilenet_v2.safetensors"))
    squares = np.stack([cv2.resize(picture, (128, 128)) for picture in pictures])
    edges = (squares[:, :8], squares[:, -8:], squares[:, :, :8].swapaxes(1, 2), squares[:, :, -8:].swapaxes(1, 2))
    strips = np.concatenate(edges, axis=1)
    features = {"network": scaled(Embedder(network, None, "", "")(squares.transpose(0, 3, 1, 2)))}  # type: ignore
    return features | picture_features(pictures) | {"border colours": picture_features(strips)["colours"]}


def main() -> None:
    parser = page_parser(__doc__, data=True)
    parser.add_argument("--weights", type=Path, default=DATA.with_name("weights"))
    options, halves = parser.parse_args(), {}
    for pack, rows in PACKS.items():
        folder = options.data / pack.partition(",")[0]
        cases = pd.read_csv(folder / "cases.csv", dtype=str).fillna("").query(rows)
        features = blocks([folder / path for path in cases["path"]], options.weights)
        person = cases["subject"].factorize()[0]
        for half, chosen in (("chooses", person <= person.max() // 2), ("judges", person > person.max() // 2)):
            halves[pack, half] = person[chosen], {score: block[chosen] for score, block in features.items()}
    scores = []
    for names in [*SINGLE, OWN, [*OWN, "network"]]:
        joined = {k: (person, np.concatenate([f[name] for name in names], 1)) for k, (person, f) in halves.items()}
        of_tail = {tail: {key: rates(*pair, tail) for key, pair in joined.items()} for tail in TAILS}
        right = [tail for tail in TAILS if all(of_tail[tail][pack, "chooses"][1] < 0.5 for pack in PACKS)]
        tail = max(right, default=TAILS[0])
        mean = np.mean([of_tail[tail][pack, "judges"] for pack in PACKS], axis=0)
        scores.append([", ".join(names), tail, *map("{:.0%}".format, mean)])
        if names == OWN:
            own_rates, best = of_tail[tail], tail
    packs = [
        [*key, len(p), len(set(p)), *map("{:.0%}".format, ((np.diff(p) == 0).mean(), *own_rates[key]))]
        for key, (p, _) in halves.items()
    ]
    tables = ["\n".join(lines) for lines in (table(HEADS, packs), table(["score", "fraction", *HEADS[-2:]], scores))]
    publish("\n\n".join(["# Patients that nobody names", str(__doc__).strip(), *tables]) + "\n", options.output)
    assert best == TAIL, f"{best} is chosen, and the product joins below {TAIL}"


if __name__ == "__main__":
    main()
