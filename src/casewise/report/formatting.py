"""Numbers and names as a reader wants them: sensible digits, true minus signs, the study's own spelling."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from casewise.report.context import is_number

if TYPE_CHECKING:
    from casewise.study.schema import Study

MISSING = "–"
SHARES = ("ccc", "pcc", "icc", "kappa")


def number(value: Any, digits: int) -> str:
    """A number with `digits` decimals, a true minus sign and no minus zero.

    >>> number(-3.14159, 2), number(-0.001, 1), number(None, 1), number(12345.6, 0)
    ('−3.14', '0.0', '–', '12,346')
    """
    if not is_number(value):
        return MISSING
    text = f"{value:,.{digits}f}"
    if not any(character in "123456789" for character in text):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: Any, digits: int) -> str:
    """A difference, always with its sign.

    >>> signed(2.04, 1), signed(-2.04, 1), signed(0.0, 1)
    ('+2.0', '−2.0', '0.0')
    """
    text = number(value, digits)
    return f"+{text}" if is_number(value) and value > 0 and any(c in "123456789" for c in text) else text


def digits_of(low: float, high: float) -> int:
    """Decimals worth showing on a scale from `low` to `high`.

    >>> digits_of(0, 64.8), digits_of(0, 4), digits_of(0, 1)
    (1, 2, 3)
    """
    width = high - low
    return 1 if width > 10 else 2 if width > 1.5 else 3


def digits_for(study: Study, metric: str, target: str) -> int:
    """Decimals for a metric of a target."""
    if metric in SHARES:
        return 2
    return digits_of(*study.range_of(target)) if target in study.targets or target in study.scores else 2


def interval(found: dict[str, Any] | None, digits: int, *, words: bool = False) -> str:
    """The bounds of a figure, for a table or (with `words`) for a sentence; empty where there are none.

    >>> interval({"low": 0.5, "high": 0.75}, 2), interval({"low": 0.5, "high": 0.75}, 2, words=True)
    ('[0.50, 0.75]', '0.50 to 0.75')
    """
    if not found or not (is_number(found.get("low")) and is_number(found.get("high"))):
        return ""
    low, high = number(found["low"], digits), number(found["high"], digits)
    return f"{low} to {high}" if words else f"[{low}, {high}]"


def display_name(study: Study, name: str) -> str:
    """A target's or score's name as the study's own title and description spell it, else with blanks for underscores.

    `pasi` becomes `PASI` where the description speaks of the PASI.
    """
    plain = name.replace("_", " ")
    for text in (study.description, study.title):
        for found in re.finditer(rf"(?<!\w){re.escape(plain)}(?!\w)", text, re.IGNORECASE):
            # a capital that only begins a sentence says nothing about the name
            if not re.search(r"(^|[.:!?]\s+)$", text[: found.start()]) or found[0][1:] != found[0][1:].lower():
                return found[0]
    return plain


def class_name(study: Study, target: str, name: str) -> str:
    """A class as a sentence names it: blanks for underscores, and a bare number with its target (`grade 3`)."""
    plain = name.replace("_", " ")
    return f"{display_name(study, target)} {plain}" if re.fullmatch(r"[\d.]+", plain) else plain


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    >>> counted(1, "visit"), counted(1200, "visit"), counted(2, "study", "studies")
    ('1 visit', '1,200 visits', '2 studies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(words: list[str], last: str = "and") -> str:
    """Words as a sentence lists them.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def duration(seconds: Any) -> str:
    """A length of time in the two largest units that matter.

    >>> duration(42.3), duration(185), duration(7300), duration(None)
    ('42 s', '3 min 5 s', '2 h 1 min', '–')
    """
    if not is_number(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def rate(value: float) -> str:
    """A learning rate as people write it.

    >>> rate(0.012), rate(1e-6), rate(3.2e-4), rate(1.0)
    ('0.012', '1e-6', '3.2e-4', '1')
    """
    if value >= 0.001:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def frozen_words(freeze: Any) -> str:
    """What of a network does not learn in a phase, as a label.

    >>> frozen_words("all"), frozen_words("none"), frozen_words("11 blocks")
    ('head alone learns', 'nothing frozen', '11 blocks frozen')
    """
    return {"all": "head alone learns", "none": "nothing frozen"}.get(str(freeze), f"{freeze} frozen")


def shortened(text: Any, length: int) -> str:
    """Text cut to `length` characters with an ellipsis.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    plain = str(text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"
