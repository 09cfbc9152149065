"""Numbers and names as text: digits, minus signs, and the study's spelling; filters of the templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import counted as counted
from casewise.errors import listed as listed
from casewise.errors import plural as plural
from casewise.study.targets import own_heading

if TYPE_CHECKING:
    from casewise.study.schema import Study

MISSING = "–"
# Classes that a sentence names.
MOST_NAMED = 8


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number.

    >>> is_number(1.5), is_number(None), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float, np.floating, np.integer)) and bool(np.isfinite(value))


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


def escaped(value: Any) -> str:
    """A name or a cell for a Markdown page, on one line and without markup; figures stay as they are.

    >>> print(escaped("a|b *c* no_finding _d_"), escaped("0.51 [0.49, 0.53]"))
    a\\|b \\*c\\* no_finding \\_d\\_ 0.51 [0.49, 0.53]
    """
    return re.sub(r"[\\`*|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(str(value).split()))


def without_html(page: str) -> str:
    """A Markdown page in which nothing is HTML, a link or an image: its templates write none.

    >>> without_html("< 5 <img src=x> [a](b)")
    '< 5 &lt;img src=x> [a]\\\\(b)'
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", page).replace("](", "]\\(")


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


def three_digits(
    value: float | None, low: float | None = None, high: float | None = None, *, percent: bool = False
) -> str:
    """A figure, with its bounds if it has both.

    >>> three_digits(0.1234, 0.1, 0.2), three_digits(0.1234, percent=True), three_digits(1234.5), three_digits(None)
    ('0.123 [0.1, 0.2]', '12.3 %', '1,234', '–')
    """
    if value is None:
        return MISSING
    given = [v for v in (value, low, high) if v is not None]
    texts = [f"{100 * v:.3g} %" if percent else f"{v:.3g}" if abs(v) < 1000 else f"{v:,.0f}" for v in given]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def interval(figure: Mapping[str, Any] | None, digits: int, *, words: bool = False, percent: bool = False) -> str:
    """The interval of a figure, for a table or (with `words`) for a sentence; empty if there is none.

    >>> interval({"low": 0.5, "high": 0.75}, 2), interval({"low": 0.5, "high": 0.75}, 0, words=True, percent=True)
    ('[0.50, 0.75]', '50 to 75 %')
    """
    ends = [(figure or {}).get(end) for end in ("low", "high")]
    if not all(map(is_number, ends)):
        return ""
    low, high = (number((100 if percent else 1) * float(end or 0.0), digits) for end in ends)
    return f"{low} to {high}{' %' if percent else ''}" if words else f"[{low}, {high}]"


# Names of a target that do not say what is predicted, and the most classes that a title names instead.
NO_OUTCOMES, MOST_IN_TITLE = ("label", "class", "target", "outcome", "diagnosis"), 3


def display_name(study: Study, name: str) -> str:
    """A target's or score's name as spelt in the study's title and description, else with blanks for underscores.

    `pasi` becomes `PASI` if the description contains PASI. A target whose name is its column in plain letters has the
    heading of that column: `Befund_0_8` becomes `Befund (0-8)`.
    """
    if heading := own_heading(study.targets.get(name), name):
        return heading
    plain_name = plain(name)
    for text in (study.description, study.title):
        for match in re.finditer(rf"(?<!\w){re.escape(plain_name)}(?!\w)", text, re.IGNORECASE):
            # a capital at the start of a sentence is not part of the name
            if not re.search(r"(^|[.:!?]\s+)$", text[: match.start()]) or match[0][1:] != match[0][1:].lower():
                return match[0]
    return plain_name


def response_name(study: Study, threshold: str) -> str:
    """`PASI75` for a score spelt in capitals, else `75 % lower`."""
    name = display_name(study, study.primary_outcome)
    return f"{name}{threshold}" if name.isupper() else f"{threshold} % lower"


def outcome_words(study: Study, name: str) -> str:
    """A target by its name, or by its classes where the name says nothing and there are few."""
    classes = study.classes_of(name)
    if name.lower() in NO_OUTCOMES and 0 < len(classes) <= MOST_IN_TITLE:
        return listed([class_name(study, name, label) for label in classes], "or")
    return display_name(study, name)


def class_name(study: Study, target: str, name: str) -> str:
    """The name of a class within a sentence: blanks for underscores, and a bare number with its target.

    A grade or a higher one (`3 or higher`) is one name: `grade 3 or higher`.
    """
    if re.fullmatch(r"[\d._]+( or higher)?", name):
        return f"{display_name(study, target)} {plain(name)}"
    return plain(name)


def known_classes(study: Study, target: str) -> str:
    """What a model of classes or grades says of an image of anything else; empty for a number."""
    names, ordinal = study.classes_of(target), study.kind_of(target) == "ordinal"
    if not names:
        return ""
    those = f"{'the grades ' * ordinal}{listed([plain(name) for name in names])}"
    if len(names) > MOST_NAMED:
        those = f"the {len(names):,} {'grades' if ordinal else 'classes'} of its training"
    where = f"For {display_name(study, target)}, the" if len(study.outputs) > 1 else "The"
    return f"{where} model knows only {those}: an image of anything else gets one of them."


def plain(name: Any) -> str:
    """A name with blanks for underscores.

    >>> plain("no_finding")
    'no finding'
    """
    return str(name).replace("_", " ")


def capital(text: str) -> str:
    """Text with a capital first letter; the rest is unchanged.

    >>> capital("AUROC of iOS"), capital("a case"), capital("")
    ('AUROC of iOS', 'A case', '')
    """
    return text[:1].upper() + text[1:]


def target_title(name: str) -> str:
    """The name of a target, with its region in brackets, within a sentence.

    >>> target_title("lung_score[left]")
    'lung score (left)'
    """
    return plain(name).replace("[", " (").replace("]", ")")


def date(at: float) -> str:
    """The day of a time in seconds (UTC).

    >>> date(86400.0 * 365)
    '1 January 1971'
    """
    day = datetime.fromtimestamp(at, UTC)
    return f"{day.day} {day:%B %Y}"


def iso_date(at: float) -> str:
    """The day of a time in seconds (UTC), for a table.

    >>> iso_date(86400.0 * 365)
    '1971-01-01'
    """
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def percent(share: Any, digits: int = 0) -> str:
    """A share in percent.

    >>> percent(0.256), percent(0.256, 1), percent(None)
    ('26 %', '25.6 %', '–')
    """
    return f"{hundredfold(share, digits)} %" if is_number(share) else MISSING


def hundredfold(share: float, digits: int) -> str:
    """100 times a share, rounded as the share itself is with two more digits.

    >>> hundredfold(0.445, 0), f"{0.445:.2f}", f"{44.5:.0f}"
    ('45', '0.45', '44')
    """
    return number(100 * float(f"{share:.{digits + 2}f}"), digits)


def probability(value: float) -> str:
    """A probability in percent, which is written as 0 or 100 only if it is exact.

    >>> probability(0.9996), probability(0.0002), probability(0.5)
    ('> 99 %', '< 1 %', '50 %')
    """
    if 0.995 <= value < 1:
        return "> 99 %"
    return "< 1 %" if 0 < value < 0.005 else percent(value)


def p_value(value: Any) -> str:
    """A p-value to three decimals, never as zero.

    >>> p_value(0.0004), p_value(0.04), p_value(None)
    ('< 0.001', '0.040', '–')
    """
    return "< 0.001" if is_number(value) and value < 0.0005 else number(value, 3)


def span(values: Sequence[float]) -> str:
    """The range of whole numbers, or the number if all are equal.

    >>> span([3, 3]), span([5, 2]), span([])
    ('3', '2–5', '–')
    """
    if not values:
        return MISSING
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"


def rate(value: float) -> str:
    """A learning rate as text.

    >>> rate(0.012), rate(1e-6), rate(3.2e-4), rate(1.0)
    ('0.012', '1e-6', '3.2e-4', '1')
    """
    if value >= 0.001:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def frozen_label(freeze: Any) -> str:
    """The label of the frozen part in a phase of training.

    >>> frozen_label("all"), frozen_label("none"), frozen_label("11 blocks")
    ('only the head is trained', 'nothing frozen', '11 blocks frozen')
    """
    return {"all": "only the head is trained", "none": "nothing frozen"}.get(str(freeze), f"{freeze} frozen")


def group_label(group: Mapping[str, str]) -> str:
    """The name of a subgroup, or what its code stands for.

    >>> group_label({"code": "value", "name": "F"}), group_label({"code": "not_recorded", "name": ""})
    ('F', 'not recorded')
    """
    codes = {"not_recorded": "not recorded", "several": "several values", "others": "other values"}
    return codes.get(group["code"]) or group["name"]


def shortened(text: Any, length: int) -> str:
    """Text cut to `length` characters with an ellipsis.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    whole = str(text)
    return whole if len(whole) <= length else whole[: length - 1] + "…"


def case_label(row: Mapping[str, Any], *, known: bool = True, visit_noun: str = "visit") -> str:
    """The case of a row within a sentence; where subjects are not known, their names and visits say nothing.

    >>> case_label({"subject": "S1", "visit": "2", "region": "trunk"}), case_label({"subject": "S1", "visit": "week 4"})
    ('subject S1, visit 2, trunk', 'subject S1, week 4')
    """
    if not known:
        return f"{shortened(row['subject'], 40)}"
    names = [f"subject {shortened(row['subject'], 40)}"]
    visit, region = shortened(row.get("visit", ""), 30), str(row.get("region", ""))
    if visit not in ("", "nan"):
        names.append(f"{visit_noun} {visit}" if visit[0].isdigit() else visit)
    return ", ".join([*names, region] if region not in ("", "nan") else names)
