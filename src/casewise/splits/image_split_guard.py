"""What tells a comparison by image from a study, so that nothing made in it passes for the study's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

# Lies in the comparison's folder before anything else does.
MARK = "comparison.json"
# The column that keeps who an image really shows, under a name that no table of a study has.
PERSON = "subject (before the split by image)"


def people_seen(panels: pd.DataFrame, names: Iterable[str]) -> dict[str, Any]:
    """What a trained network's facts say of whom it has seen: people, also where `names` are those of images.

    >>> import pandas as pd
    >>> people_seen(pd.DataFrame({"subject": ["b", "a"]}), {"a", "b"})
    {'subjects': ['a', 'b']}
    >>> people_seen(pd.DataFrame({"subject": ["a image 0", "a image 1"], PERSON: "a"}), {"a image 0", "c"})
    {'subjects': ['a', 'c'], 'comparison_only': True}
    """
    if PERSON not in panels:
        return {"subjects": sorted(names)}
    of_image = dict(zip(panels["subject"].astype(str), panels[PERSON].astype(str), strict=True))
    return {"subjects": sorted({of_image.get(name, name) for name in names}), "comparison_only": True}


def refuse_comparison(folder: Path) -> None:
    """Stop where a folder holds what was split by image, for comparison only.

    Raises:
        RunError: naming the run that it belongs to.
    """
    if (folder / MARK).is_file():
        own = folder.resolve().parent
        raise RunError(
            f"{folder} holds the comparison by image of the run {own}: who is tested there was trained on, so that its "
            f"figures are of nobody new and get no page of their own. Name {own}; its page shows both."
        )
