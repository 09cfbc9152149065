"""Which names of subjects may mean the same person: names that differ in spelling only, and doubtful pairs.

A pseudonym takes the place of a name in a shared bundle, which can still be checked for leaks. It holds salted hashes
of the texts by which names are compared. It hides names from a reader, and does not resist guessing: whoever guesses a
name can compute its hashes.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from urllib.parse import unquote

# Letters of other alphabets that look like a Latin letter.
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("авекмнорстухіјѕѵԁԛԝһӏ", "abekmhopctyxijsvdqwhl", strict=True)),
        **dict(zip("αβεζηικμνορτυχ", "abezhikmnoptyx", strict=True)),
        **dict(zip("øłđħŧıſ", "oldhtis", strict=True)),
        "æ": "ae",
        "œ": "oe",
    }
)
_SPELLED_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_AS_DIGITS = str.maketrans("oil", "011")
_WRITTEN_WITH_ACCENTS = ("LATIN", "GREEK", "CYRILLIC", "DIGIT")
# Marks around a name, such as quotes, brackets and a number sign.
_AROUND = " '\"`´#()[]{}<>.,;:"
_NUMBER = re.compile(r"\+?(\d+)(?:[.,]0{0,2})?(?:e\+?(\d{1,2}))?")
_THOUSANDS = re.compile(r"\d{1,3}(?:[.,' ]\d{3})+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
_FILE = re.compile(
    r"(?<=\w)\.(?:jpe?g|png|tiff?|bmp|gif|webp|heic|dcm|dicom|nii(?:\.gz)?|mha|nrrd|svs|ndpi|mrxs)\s*$", re.IGNORECASE
)
# With fewer digits, names with and without separators are too often different people (`1-10` and `110`).
_LONG = 6
_READ_AS_DIGITS, _JOINED = " as digits", " without separators"
# What a study states on names that look alike: `refuse_similar`, `as_written`, or lists of names of different people.
Declared = str | Sequence[Sequence[str]]
REFUSE, AS_WRITTEN = "refuse_similar", "as_written"


def alike(text: str) -> str:
    """A name without case and spaces; columns, classes and visits with the same result are one name.

    >>> alike("s 01") == alike("S01 ")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")


def look_equal(names: Sequence[str]) -> bool:
    """Whether names that are written differently may look equal, such as with a letter of another alphabet.

    >>> look_equal(["C1", "\u04211"]), look_equal(["c1", "C1"])
    (True, False)
    """
    plain = {"".join(text.casefold().translate(_LOOKALIKES).split()) for text in names}
    return len(plain) == 1 < len({name.casefold() for name in names}) and not all(name.isascii() for name in names)


def identity(name: str) -> frozenset[str]:
    """The keys of a subject's name; names without a key in common belong to different people.

    Case, accents, invisible characters, leading zeros, the decimal places of whole numbers, endings of image files,
    escapes of HTML and of addresses, and letters of other alphabets that look like Latin ones do not count; nor do
    separators, except between two digits, where all separators are the same. An umlaut may be spelled out, and a UUID
    is one with and without dashes. The last two kinds of keys have words, and decide under the conditions of
    `_may_be_one` only: O, I and l read as digits, and a number of six or more digits without its separators.

    >>> sorted(frozenset.intersection(*map(identity, ["C1", "c-01", "C_1", "С1", "C 001"])))
    ['c1', 'c1 as digits']
    >>> identity("1-10") & identity("11-0")
    frozenset()
    """
    text = _visible(name)
    spelled_out = unicodedata.normalize("NFC", name.casefold()).translate(_SPELLED_OUT)
    keys = {alike(name), _key(text), _key(_visible(spelled_out))}
    if _THOUSANDS.fullmatch(text):
        keys.add(re.sub(r"\D", "", text).lstrip("0"))
    text = text.translate(_AS_DIGITS)
    if re.search(r"\d", text):
        keys.add(_key(text) + _READ_AS_DIGITS)
    digits = re.sub(r"[\W_]", "", text)
    if digits.isdecimal() and len(digits) >= _LONG:
        keys.add(digits + _JOINED)
    return frozenset(key or name for key in keys)


def groups_of_one(names: Iterable[str], declared: Declared = REFUSE) -> list[list[str]]:
    """The groups of different names that may mean one person, in order; without pairs declared as different people.

    With `as_written`, only case, spaces and invisible characters do not count.

    >>> groups_of_one(["1", "2", "01", "123-4567", "12-34567", "S1"])
    [['1', '01']]
    >>> groups_of_one(["1", "01", "S1", "s-1"], [["1", "01"]])
    [['S1', 's-1']]
    >>> groups_of_one(["Day 1", "Day -1", "day1"], "as_written")
    [['Day 1', 'day1']]
    """
    different = _different_pairs(declared)
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        for key in [alike(name) or name] if declared == AS_WRITTEN else sorted(identity(name)):
            by_key[key].append(name)
    groups = []
    for key, group in by_key.items():
        similar = [name for name in group if any(_similar(key, name, other, different) for other in group)]
        groups += [tuple(similar)] if similar else []
    largest = [group for group in dict.fromkeys(groups) if not any(set(group) < set(other) for other in groups)]
    return [list(group) for group in largest]


def same_people(names: Iterable[str], others: Iterable[str], declared: Declared = REFUSE) -> dict[str, str]:
    """The names that may mean a person among `others`, each with that person's spelling there, in order.

    With `as_written`, only case, spaces and invisible characters do not count; pairs that are declared as different
    people do not count either.

    >>> same_people(["001", "7"], ["1", "2"]), same_people(["001", "7"], ["1", "7"], [["1", "001"]])
    ({'001': '1'}, {'7': '7'})
    """
    different, as_written = _different_pairs(declared), declared == AS_WRITTEN
    by_key: dict[str, list[str]] = defaultdict(list)
    for other in others:
        for key in (alike(other),) if as_written else identity(other):
            by_key[key].append(other)
    spellings: dict[str, str] = {}
    for name in names:
        keys = [alike(name)] if as_written else sorted(identity(name))
        candidates = [
            other
            for key in keys
            for other in by_key.get(key, [])
            if _may_be_one(key, name, other) and frozenset((name, other)) not in different
        ]
        if candidates:
            spellings[name] = name if name in candidates else candidates[0]
    return spellings


def _own_marks(name: str) -> list[str]:
    """Texts by which `_marks_of_same` recognises this person; hashed, they stand for the name (see `pseudonym`)."""
    letters, joined = sum(map(_visible(name).count, "oil")), alike(name).isalnum()
    conditions = {_READ_AS_DIGITS: f" {letters}", _JOINED: f" {joined}"}
    return [
        key + next((text for ending, text in conditions.items() if key.endswith(ending)), "")
        for key in sorted(identity(name))
    ]


def _marks_of_same(name: str) -> list[str]:
    """Texts: another name's `_own_marks` contain one of them exactly if both names may mean one person.

    >>> bool(set(_own_marks("001")) & set(_marks_of_same("1"))), bool(set(_own_marks("2")) & set(_marks_of_same("1")))
    (True, False)
    """
    letters, joined = sum(map(_visible(name).count, "oil")), alike(name).isalnum()
    marks = []
    for key in sorted(identity(name)):
        if key.endswith(_READ_AS_DIGITS):
            marks += [f"{key} {count}" for count in range(len(key) + 1) if count != letters]
        elif key.endswith(_JOINED):
            marks += [f"{key} {other}" for other in (True, False) if joined or other]
        else:
            marks.append(key)
    return marks


def spelling_pairs(similar: dict[str, str], most: int = 5) -> str:
    """The result of `same_people` for a message: each name, and its other spelling if it differs.

    >>> spelling_pairs({"7": "7", "001": "1"})
    '7, 001 (there 1)'
    """
    pairs = [name if name == other else f"{name} (there {other})" for name, other in list(similar.items())[:most]]
    return ", ".join(pairs)


def _different_pairs(declared: Declared) -> set[frozenset[str]]:
    groups = [] if isinstance(declared, str) else declared
    return {frozenset(pair) for group in groups for pair in combinations(group, 2)}


def _similar(key: str, name: str, other: str, different: set[frozenset[str]]) -> bool:
    stated = frozenset((name.strip(), other.strip())) in different
    return name != other and not stated and _may_be_one(key, name, other)


def _may_be_one(key: str, name: str, other: str) -> bool:
    """Whether two names with a key in common may mean one person.

    Read as digits, one name must have a digit where the other has a letter: `NI-1` and `NL-1` are two people. Without
    separators, one name must be written so: `12-34567` and `123-4567` are two people.
    """
    if key.endswith(_READ_AS_DIGITS):
        letters = [sum(map(_visible(text).count, "oil")) for text in (name, other)]
        return letters[0] != letters[1]
    return not key.endswith(_JOINED) or any(alike(text).isalnum() for text in (name, other))


def _letters(name: str) -> Iterator[str]:
    """The visible characters without case and accents, each space and dash as one of its kind."""
    script = ""
    for character in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold()):
        category = unicodedata.category(character)
        if category[0] == "M":
            invisible = unicodedata.name(character, "").startswith(("VARIATION SELECTOR", "COMBINING GRAPHEME"))
            if not invisible and not script.startswith(_WRITTEN_WITH_ACCENTS):
                # a vowel or voicing sign is part of the name; as letters, it is not a separator
                yield "".join(chr(ord("a") + int(digit, 16)) for digit in f"{ord(character):x}")
        elif category in ("Zs", "Zl", "Zp") or character.isspace():
            yield " "
        elif category == "Pd" or character == "\N{MINUS SIGN}":
            yield "-"
        elif category == "Nd":
            yield str(unicodedata.digit(character))
        elif category not in ("Cf", "Cc", "Cn", "Co", "Cs"):
            yield character
        if category[0] in "LN":
            script = unicodedata.name(character, "")


def _visible(name: str) -> str:
    """The characters of a name that count, and its separators."""
    plain = _FILE.sub("", html.unescape(unquote(name)))
    return "".join(_letters(plain)).translate(_LOOKALIKES).strip(_AROUND)


def _key(text: str) -> str:
    """A name without separators, except one between digits, and without leading zeros."""
    if match := _NUMBER.fullmatch(text):
        text = match[1] + "0" * int(match[2] or 0)
    elif _UUID.fullmatch(text):
        return text.replace("-", "")
    text = re.sub(r"(?<=\d)[\W_]+(?=\d)", "-", text)
    text = re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


# Words before a number that may stand for each other, or for no word.
_WORDS = {
    **dict.fromkeys(("id", "nr", "no", "num", "number", "pid"), ""),
    **dict.fromkeys(("p", "pt", "pat", "patient"), "patient"),
    **dict.fromkeys(("s", "sub", "subj", "subject"), "subject"),
}
_ALL_PAIRS = 40
_WORD_AND_NUMBER = re.compile(r"([^\W\d_]*)[\W_]*0*(\d+)")
_DATED = re.compile(r"(.*\d.*?)[\W_]+((?:19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d|[0-3]\d[\W_][01]\d[\W_](?:19|20)\d\d)")


def doubtful_pairs(
    names: Iterable[str], others: Iterable[str] | None = None, declared: Declared = REFUSE
) -> list[tuple[str, str]]:
    """Pairs of names, or of a name and one of `others`, that differ in more than spelling and may mean one person.

    They have the same number with and without a word (`001` and `UKE-001`, but not `A001` and `B001`), the same number
    after words for a subject (`P1` and `Patient 1`), the same beginning before a date, or the same words in another
    order. None with `as_written`; pairs declared as different people are left out.

    >>> doubtful_pairs(["001", "UKE-001", "A2", "B2", "P7_20200101", "P7_20210101", "Meier, Anna", "Anna Meier"])
    [('001', 'UKE-001'), ('P7_20200101', 'P7_20210101'), ('Meier, Anna', 'Anna Meier')]
    """
    different = _different_pairs(declared)
    by_key: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
    for given, of_first in ((names, True), (() if others is None else others, False)):
        for name in dict.fromkeys(given) if declared != AS_WRITTEN else ():
            for key, word in _loose_keys(name):
                by_key[key].append((name, word, of_first))
    pairs: dict[tuple[str, str], None] = {}
    for group in by_key.values():
        # in larger groups, each name is paired with the first only
        every = combinations(group, 2) if len(group) <= _ALL_PAIRS else ((group[0], other) for other in group[1:])
        for (name, word, first), (other, of_other, second) in every:
            loose = word == of_other or not (word and of_other)
            apart = others is None or first != second
            if loose and apart and frozenset((name.strip(), other.strip())) not in different:
                pairs[name, other] = None
    return [pair for pair in pairs if not identity(pair[0]) & identity(pair[1])]


def _loose_keys(name: str) -> Iterator[tuple[str, str]]:
    """Keys that doubtful names share, each with the word before a number; '' stands for any."""
    text = _visible(name)
    if match := _WORD_AND_NUMBER.fullmatch(text):
        yield f"number {match[2]}", _WORDS.get(match[1], match[1])
    words = re.findall(r"[^\W\d_]{2,}", text)
    if len(words) > 1 and not re.search(r"\d", text):
        yield f"words {sorted(words)}", ""
    if re.search(r"\d", text):
        match = _DATED.fullmatch(text)
        yield f"dated {_key(match[1] if match else text)}", ""


# How a pseudonym begins; the salt and the hashes follow.
PREFIX = "hashed:"
_DIGITS = 20


def pseudonym(name: str, salt: str) -> str:
    """The hashes of a subject's name; a pseudonym stays as it is.

    >>> pseudonym("P 01", "s").count(","), pseudonym("P01", "s") == pseudonym("P01", "t")
    (4, False)
    """
    if name.startswith(PREFIX):
        return name
    texts = [_exact(name), _spelled(name), *_own_marks(name)]
    return f"{PREFIX}{salt}:{','.join(_hash(text, salt) for text in texts)}"


def same_subjects(names: Iterable[str], others: Iterable[str], declared: Declared = REFUSE) -> dict[str, str]:
    """`same_people`, where `others` may be pseudonyms; these have no spelling, so the name itself is given.

    >>> same_subjects(["001", "7"], [pseudonym("1", "s")])
    {'001': '001'}
    """
    names, others = list(names), list(others)
    hashed: dict[str, list[set[str]]] = {}
    for other in others:
        if other.startswith(PREFIX):
            salt, _, hashes = other.removeprefix(PREFIX).partition(":")
            hashed.setdefault(salt, []).append(set(hashes.split(",")))
    spellings = same_people(names, [other for other in others if not other.startswith(PREFIX)], declared)
    for name in names:
        if name not in spellings and any(_is_among(name, salt, people, declared) for salt, people in hashed.items()):
            spellings[name] = name
    return {name: spellings[name] for name in names if name in spellings}


def _is_among(name: str, salt: str, people: list[set[str]], declared: Declared) -> bool:
    """Whether a name may mean one of the people with these hashes."""
    as_written = declared == AS_WRITTEN
    marks = {_hash(text, salt) for text in ([_spelled(name)] if as_written else [_exact(name), *_marks_of_same(name)])}
    groups = [] if isinstance(declared, str) else [[other.strip() for other in group] for group in declared]
    others = {other for group in groups if name.strip() in group for other in group} - {name.strip()}
    different = {_hash(_exact(other), salt) for other in others}
    return any(marks & person and not different & person for person in people)


def _exact(name: str) -> str:
    return f"exactly {name.strip()}"


def _spelled(name: str) -> str:
    return f"spelled {alike(name)}"


def _hash(text: str, salt: str) -> str:
    return hashlib.sha256(f"{salt} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
