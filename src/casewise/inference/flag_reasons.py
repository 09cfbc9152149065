"""The reasons of flags in words, and a text of several of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from casewise.inference.drift import NAMES, WORDS

if TYPE_CHECKING:
    from casewise.inference.input_checks import Limits

SEPARATOR = "; "
# Of every case of a source whose cases differ from the training cases, until somebody confirms the source.
UNCONFIRMED = "not confirmed for this source (its cases together are unlike the training cases)"
LOOK = "texture, intensities or shape unlike the training images: another source?"
NEGATIVE = "a negative: light and dark are exchanged"
# Without a check for negatives, the two cannot be distinguished.
UPSIDE_DOWN, TURNED_OR_NEGATIVE = "upside down", "upside down, or a negative"
NEARLY_UNIFORM = "nearly uniform"
# Messages for a number below and above its range.
REASONS = {name: tuple(f"much {word} than the training images" for word in WORDS[name]) for name in NAMES}
REASONS["colour"] = ("grey, and the training images are in colour", "in colour, and the training images are not")
# What precedes the name of a region or sequence that a case lacks.
MISSING = {"region": "no image of", "sequence": "no scan of the sequence"}
WRONG_REGION = "looks like an image of {shown}, not of {stated}"
IN_GREY = 0.02
# Training images whose limit of colour is below this are grey, some perhaps toned.
MOST_OF_GREY = 0.15
MORE_COLOUR = "much stronger colours than the training images"
LESS_COLOUR = "much weaker colours than the training images"


def joined(reasons: Iterable[str]) -> str:
    """Different reasons as one text; a name in them, such as a file's, cannot divide one into two.

    >>> reasons_of(joined(["a; b.jpg: upside down", "", "no image of trunk"]))
    ['a, b.jpg: upside down', 'no image of trunk']
    """
    return SEPARATOR.join(dict.fromkeys(reason.replace(SEPARATOR, ", ") for reason in reasons if reason))


def reasons_of(text: str) -> list[str]:
    """The reasons in a text of `joined`."""
    return text.split(SEPARATOR) if text else []


def possible_reasons(limits: Limits) -> tuple[str, ...]:
    """Every reason that may be in a text of `joined`, without a file's name."""
    of_numbers = [reason for pair in REASONS.values() for reason in pair if reason]
    lacking = [f"{MISSING['region']} {name}" for name in limits.regions]
    lacking += [f"{MISSING['sequence']} {name}" for name in limits.sequences]
    regions = limits.wrong_region.regions if limits.wrong_region else ()
    wrong = [WRONG_REGION.format(shown=shown, stated=stated) for shown in regions for stated in regions]
    fixed = (UNCONFIRMED, LOOK, NEGATIVE, UPSIDE_DOWN, TURNED_OR_NEGATIVE, NEARLY_UNIFORM, MORE_COLOUR, LESS_COLOUR)
    sizes = [limits.sizes.reason] if limits.sizes else []
    return tuple(reason.replace(SEPARATOR, ", ") for reason in (*fixed, *sizes, *of_numbers, *lacking, *wrong))
