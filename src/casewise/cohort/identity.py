"""Which names of subjects mean the same person: names that differ in spelling only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Letters of other alphabets, and digits, that look like a Latin letter or a digit.
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("авекмнорстухіјѕѵԁԛԝһӏ", "abekmhopctyxijsvdqwhl", strict=True)),
        **dict(zip("αβεζηικμνορτυχ", "abezhikmnoptyx", strict=True)),
        **dict(zip("øłđħŧıſ", "oldhtis", strict=True)),
    }
)
# Letters that are read as digits, after the look-alikes of other alphabets.
_AS_DIGITS = str.maketrans({"o": "0", "i": "1", "l": "1"})
_NUMBER = re.compile(r"[+]?(\d+)(?:[.,](\d*))?(?:e[+]?(\d{1,3}))?")


def identity(name: str) -> str:
    """A key that is equal for all spellings of one subject's name.

    Case, accents, spaces, invisible characters, leading zeros, the decimal places of whole numbers, look-alike letters
    of other alphabets, O for 0 and l or I for 1 do not count; nor do separators, except between two digits, where all
    separators are the same. Two different people may have one key, such as `S1` and `S01`; they are never taken for one
    person, but refused until the names differ more or the study states that they are different people.

    >>> len({identity(name) for name in ["C1", "c-01", "C_1", "С1", "C 001"]})
    1
    >>> identity("1-10") == identity("11-0")
    False
    """
    text = _whole_number("".join(_letters(name)).translate(_LOOKALIKES).strip(" '\"`"))
    text = re.sub(r"(?<=\d)[^\w]+(?=\d)|(?<=\d)_+(?=\d)", "-", text.translate(_AS_DIGITS))
    text = re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text) or name


def same_people(names: Iterable[str], others: Iterable[str], *, as_written: bool = False) -> dict[str, str]:
    """The names that mean a person among `others`, each with that person's spelling there, in order.

    With `as_written` only equal names do.

    >>> same_people(["001", "7"], ["1", "2"])
    {'001': '1'}
    """
    key = str if as_written else identity
    spellings = {key(other): other for other in others}
    return {name: spellings[key(name)] for name in names if key(name) in spellings}


def _letters(name: str) -> Iterable[str]:
    """The visible characters, without case and accents; every space or dash as one of its kind."""
    for character in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold()):
        category = unicodedata.category(character)
        if category in ("Zs", "Zl", "Zp") or character.isspace():
            yield " "
        elif category in ("Pd", "Sm") and character != "+":
            yield "-"
        elif category == "Nd":
            yield str(unicodedata.digit(character))
        elif category[0] != "M" and category not in ("Cf", "Cc", "Cn", "Co", "Cs"):
            yield character


def _whole_number(text: str) -> str:
    """A number without sign, exponent and empty decimal places: `+1`, `1.0` and `1e0` are 1."""
    match = _NUMBER.fullmatch(text)
    if not match or (match[2] or "").strip("0"):
        return text
    return match[1] + "0" * int(match[3] or 0)
