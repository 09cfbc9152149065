"""The words that people write into the cells of a column for no value, in English, German, French and Spanish."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.cohort.table_formats import NO_VALUE, missing_words

# Words (in lower case) that people write into cells without a value; the study leaves such rows out by `where_not`.
EMPTY = NO_VALUE | {
    *("k.a.", "k. a.", "k.a", "keine angabe", "keine angaben", "n.a.", "n. a.", "n.d.", "not available", "not done"),
    *("not known", "unbekannt", "nicht erhoben", "entfällt", "--", "–", "—", "."),
    *("not gradable", "ungradable", "not gradeable", "ungradeable", "not assessable", "not evaluable", "not readable"),
    *("nicht beurteilbar", "nicht auswertbar", "nicht bewertbar", "nicht durchgeführt", "nicht gemacht"),
    *("non fait", "non réalisé", "non évaluable", "no realizado", "no evaluable", "not performed"),
    *("n.b.", "n. b.", "nicht bestimmbar", "nicht bestimmt", "nicht bekannt", "nicht untersucht", "nicht verfügbar"),
    *("nicht gemessen", "nicht zutreffend", "nicht angegeben", "ohne angabe", "o.a.", "o. a."),
    *("n.e.", "n. e.", "n.u.", "n. u.", "n.z.", "n. z.", "n/d", "n. d.", "n/b", "n.r.", "n. r."),
    *("not determined", "not determinable", "not recorded", "not assessed", "not applicable", "not evaluated"),
    *("not measured", "not reported", "not stated", "tbd", "#n/v", "#nv", "#value!", "#wert!", "#ref!", "#div/0!"),
    *("non disponible", "non déterminé", "non renseigné", "non connu", "inconnu", "non applicable"),
    *("non mesuré", "non précisé", "sans objet", "s/d", "s.d.", "sin datos", "sin dato", "no disponible"),
    *("no determinado", "no consta", "n.c.", "desconocido", "no aplica", "no aplicable", "no valorable"),
    *("no registrado", "no medido"),
}
# Words that mean no value beside numbers, and may be a class beside other texts: no disease, or absent.
_BESIDE_NUMBERS = {
    *(
        "nd",
        "nd.",
        "nb",
        "nr",
        "ne",
        "ka",
        "k a",
        "n a",
        "n b",
        "n d",
        "na.",
        "n.v.",
        "n. v.",
        "nsp",
        "fehlt",
        "manquant",
    ),
}
# The same in a column of texts, where `none` may be a finding. In a column of numbers it means no value.
NO_TEXT = EMPTY - {"none"}


def no_value_words(cells: Sequence[str]) -> set[str]:
    """The words in lower case that mean no value among these cells, if they have texts.

    >>> "n.b." in no_value_words(["G1", "n.b."]), "o.b." in no_value_words(["1", "o.B."])
    (True, False)
    >>> "nd" in no_value_words(["1", "2", "ND"]), "nd" in no_value_words(["DR", "ND", "DR"])
    (True, False)
    """
    words = NO_TEXT - (NO_VALUE - missing_words(cell for cell in cells if cell.casefold() not in EMPTY - NO_VALUE))
    others = [cell for cell in cells if cell and cell.casefold() not in EMPTY | _BESIDE_NUMBERS]
    numbered = bool(others) and all(any(letter.isdigit() for letter in cell) for cell in others)
    return words | _BESIDE_NUMBERS if numbered else words
