"""Whether new cases, taken together, differ from the training cases, as cases from another source do.

Each number of an image is compared with its quantiles among the training images by the test of Kolmogorov and Smirnov.
An image weighs the less, the more its subject has, and the sizes of the samples are the numbers of subjects. The
largest difference is sought at the stored quantiles only, so that the test is conservative; p values are multiplied by
the number of tests (Bonferroni). Small differences, which many cases show beyond doubt, are not reported.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.errors import CasewiseError, counted

Floats: TypeAlias = NDArray[np.float64]
# The values of quantiles, and the shares of the training images that are at or below each of them.
Quantiles: TypeAlias = tuple[list[float], list[float]]
# Tables of images of new cases: `case`, `subject` and a column for each number.
Batch: TypeAlias = list[pd.DataFrame]
# Fewer cases or subjects are not tested.
FEWEST_CASES, FEWEST_SUBJECTS = 20, 10
LEVEL = 0.05
# The last cases of a source that a service tests together, after how many further ones it tests again, and the last
# cases of all sources that it keeps.
RECENT, FURTHER, KEPT = 100, 10, 1000
# The key of a confirmation of every source.
EVERY_SOURCE = "*"
# The share of held-out cases that may be flagged, and that exceed the distance that counts as 1.
FAR_SHARE = 0.05
# The least difference of two distributions (from 0 to 1) that is reported.
LEAST_DIFFERENCE = 0.25
# No quantile is the most extreme subject's value.
QUANTILES = np.linspace(0.02, 0.98, 25)
TEXTURE, BYTES = "texture", "bytes"
# Numbers of an image, in the order of `casewise.inference.image_measures.Measures.values`.
NAMES = ("brightness", "contrast", "black", "white", "size", "shape", "colour")
# Words for new images that are mostly below, and mostly above, the training images.
WORDS = {
    "brightness": ("darker", "lighter"),
    "contrast": ("less contrast", "more contrast"),
    "black": ("less black", "more black"),
    "white": ("less white", "more white"),
    "size": ("smaller", "larger"),
    "shape": ("narrower", "wider"),
    "colour": ("weaker colours", "stronger colours"),
    BYTES: ("fewer bytes a pixel", "more bytes a pixel"),
    "look": ("", "a rarer look"),
    TEXTURE: ("another texture", "another texture"),
}


@dataclass(frozen=True)
class Drift:
    """The result of the test.

    Attributes:
        tested: whether there are enough cases and subjects, and quantiles of the training.
        differences: by name of a number, the `difference` of the distributions, positive where more of the new images
            are below, and `p_adjusted`, the p value multiplied by the number of tests.
        text: the warning; empty without one.
        confirmed: who confirmed that the model may be used for the source of these cases (`by`), the `reason`, and
            when (`at`); empty if nobody did.
    """

    cases: int = 0
    subjects: int = 0
    tested: bool = False
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    text: str = ""
    confirmed: dict[str, str] = field(default_factory=dict)

    @property
    def withholds(self) -> bool:
        """Whether the confidence of every prediction of the batch is withheld.

        Not for other bytes a pixel alone: saving the same pixels in another format changes them.
        """
        return not self.confirmed and any(name.split()[0] != BYTES for name in self.differences)

    @property
    def facts(self) -> dict[str, Any]:
        """What a service states of the source of its cases, as plain values."""
        facts = {"cases": self.cases, "tested": self.tested, "warning": self.text, "withheld": self.withholds}
        return facts | {"confirmed": self.confirmed}


def confirmation(text: str) -> dict[str, str]:
    """The confirmation of a source from `NAME, REASON`; empty without a text.

    Raises:
        CasewiseError: the name or the reason is missing.
    """
    by, _, reason = map(str.strip, text.partition(","))
    if text and not (by and reason):
        raise CasewiseError(
            f"--source-confirmed: {text!r} is not NAME, REASON, such as 'A. Meyer, 50 films of this scanner compared "
            "with the reading of two radiologists'."
        )
    return {"by": by, "reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")} if text else {}


def drift(batch: Batch, quantiles: Mapping[str, Quantiles], trained: int, repeats: float = 1) -> Drift:
    """Compare images of new cases with the training images.

    Args:
        trained: the number of training subjects.
        repeats: a further factor of the p values, where cases are tested again and again.
    """
    table = pd.concat(batch, ignore_index=True) if batch else pd.DataFrame(columns=["case", "subject"])
    cases, subjects = table["case"].nunique(), table["subject"].nunique()
    tested = bool(quantiles) and cases >= FEWEST_CASES and subjects >= FEWEST_SUBJECTS
    differences: dict[str, dict[str, float]] = {}
    if tested:
        from scipy.special import kolmogorov
    for name in [name for name in quantiles if tested and name in table]:
        values, shares = quantiles[name]
        gaps = shares_below(table[name].to_numpy(dtype=float), table["subject"], np.array(values)) - shares
        # training images were measured held out, even from their source, so equal new images have a less distant look
        gaps = gaps.clip(max=0) if name == "look" else gaps
        gap = float(gaps[np.abs(gaps).argmax()])
        statistic = np.sqrt(subjects * trained / (subjects + trained)) * abs(gap)
        p = min(1.0, float(kolmogorov(statistic)) * len(quantiles) * repeats)
        if p <= LEVEL and abs(gap) >= LEAST_DIFFERENCE:
            differences[name] = {"difference": gap, "p_adjusted": p}
    by_size = sorted(differences, key=lambda name: -abs(differences[name]["difference"]))
    reasons = dict.fromkeys(WORDS[name.split()[0]][differences[name]["difference"] < 0] for name in by_size)
    text = f"These {counted(cases, 'case')} are not like the training cases: another source? Their images differ: "
    return Drift(cases, subjects, tested, differences, text + ", ".join(reasons) + "." if reasons else "")


@dataclass
class RecentCases:
    """The recent cases of a service, which answers them one by one, and what their tests found.

    A source with enough recent cases is tested by itself; the others are tested together, as the source "". Once the
    cases of a source differ from the training, its warning stands, whatever comes later.

    A source is tested at each `FURTHER` cases. Many tests find more than one does, so the p value of test n is
    multiplied by n (n + 1): the sum of all levels is `LEVEL`, however long the service runs.

    Attributes:
        cases: the oldest first: `case`, `subject` and `source` by name, and `images`, the numbers of each image.
        tests: by source, how many tests it had.
        untested: by source, how many cases it had since its last test.
        warnings: by source, its `Drift`, when it was found (`at`), and the names of the cases `before`, which were
            answered with confidence.
        confirmed: by source, or for `EVERY_SOURCE`, what `confirmation` gave.
        salt: the secret with which names are hashed.
    """

    cases: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, int] = field(default_factory=dict)
    untested: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, dict[str, Any]] = field(default_factory=dict)
    confirmed: dict[str, dict[str, str]] = field(default_factory=dict)
    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def hashed(self, *names: str) -> str:
        """A name from which others do not follow."""
        return hashlib.sha256("\\".join((self.salt, *names)).encode()).hexdigest()[:16]

    def confirm(self, texts: str | Mapping[str, str]) -> None:
        """Set who confirmed every source, or each by its name; a confirmation that was known keeps its time.

        Raises:
            CasewiseError: as `confirmation`.
        """
        by_source = {EVERY_SOURCE: texts} if isinstance(texts, str) else texts
        stated = {source: confirmation(text) for source, text in by_source.items() if text}
        for source, entry in stated.items():
            earlier = self.confirmed.get(source, {})
            if {**earlier, "at": ""} == {**entry, "at": ""}:
                entry["at"] = earlier["at"]
        self.confirmed = stated

    def confirmation_of(self, source: str) -> dict[str, str]:
        """Who confirmed a source, as of `confirmation`; empty if nobody did."""
        return self.confirmed.get(source) or self.confirmed.get(EVERY_SOURCE) or {}

    def tested(self, new: Sequence[Mapping[str, Any]], test: Callable[[Batch, float], Drift]) -> tuple[str, Drift]:
        """The source under which new cases of a subject are tested, and the test of its recent cases with them.

        Args:
            new: as in `cases`, of one source.
            test: as `drift`, from a batch and `repeats`.
        """
        source, group = self._group(new)
        group, number = group[-RECENT:], self.tests.get(source, 0) + 1
        if warning := self.warnings.get(source):
            result = Drift(**warning["drift"])
        elif self._waits(source):
            result = Drift(len(group), len({case["subject"] for case in group}), tested=True)
        else:
            about = [{"case": case["case"], "subject": case["subject"]} for case in group]
            rows = [own | image for own, case in zip(about, group, strict=True) for image in case["images"]]
            result = test([pd.DataFrame(rows)] if rows else [], number * (number + 1))
            # a difference that withholds nothing is no warning here
            result = result if result.withholds else Drift(result.cases, result.subjects, result.tested)
        return source, replace(result, confirmed=self.confirmation_of(source))

    def record(self, new: Sequence[Mapping[str, Any]], source: str, result: Drift) -> bool:
        """Add cases after their answer; whether their test is the first of its source that warns."""
        names = {case["case"] for case in new}
        before = [case["case"] for case in self._group(new)[1] if case["case"] not in names]
        kept = [*(case for case in self.cases if case["case"] not in names), *map(dict, new)][-KEPT:]
        sources = pd.Series([case["source"] for case in kept], dtype=object)
        later = sources.groupby(sources).cumcount(ascending=False)
        self.cases = [case for case, number in zip(kept, later, strict=True) if number < RECENT]
        if not result.tested or source in self.warnings:
            return False
        waits = self._waits(source)
        self.tests = self.tests | {source: self.tests.get(source, 0) + (not waits)}
        self.untested = self.untested | {source: len(new) + (self.untested[source] if waits else 0)}
        if not replace(result, confirmed={}).withholds:
            return False
        warning = {"drift": asdict(replace(result, confirmed={})), "before": before[-RECENT:]}
        warning["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.warnings = self.warnings | {source: warning}
        return True

    def _waits(self, source: str) -> bool:
        """Whether a source had a test, and too few cases since."""
        return 0 < self.untested.get(source, 0) < FURTHER

    def _group(self, new: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
        """The source under which new cases are tested, and its recent cases with them."""
        names = {case["case"] for case in new}
        cases = [*(case for case in self.cases if case["case"] not in names), *new]
        subjects: dict[str, list[str]] = {}
        for case in cases:
            subjects.setdefault(case["source"], []).append(case["subject"])
        tested = {
            source
            for source, own in subjects.items()
            if source in self.warnings or (len(own) >= FEWEST_CASES and len(set(own)) >= FEWEST_SUBJECTS)
        }
        source = new[0]["source"] if new and new[0]["source"] in tested else ""
        return source, [case for case in cases if (case["source"] if case["source"] in tested else "") == source]


def shares_below(values: Floats, subjects: Any, points: Floats) -> Floats:
    """(Q,) the shares of values (N,) that are at or below each point (Q,), each subject (N,) weighing the same."""
    _, numbers, counts = np.unique(np.asarray(subjects, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(values)
    sums = np.concatenate([[0.0], np.cumsum(1 / counts[numbers[order]]) / len(counts)])
    return np.asarray(sums[np.searchsorted(values[order], points, side="right")])


def held_out_quantile(values: Floats, subjects: Any = None, share: float = FAR_SHARE) -> float:
    """The smallest of the values (N,) that at most this share of further cases is expected to exceed; else the largest.

    It is that of split conformal prediction (Lei and others 2018), in which the new subject is one more. Each subject
    (N,) weighs the same; None: each value.

    >>> held_out_quantile(np.arange(1.0, 100.0)), held_out_quantile(np.array([3.0, 1.0]))
    (95.0, 3.0)
    """
    subjects = np.arange(len(values)) if subjects is None else subjects
    names, numbers, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum((1 / counts[numbers] / (len(names) + 1))[order]) >= 1 - share - 1e-9
    return float(values[order][reached.argmax() if reached.any() else -1])


def quantiles_of(values: Floats, subjects: Any) -> Quantiles:
    """Quantiles of the values (N,) of training images, with the subject of each image (N,)."""
    points = np.unique(np.quantile(values, QUANTILES))
    return points.tolist(), shares_below(values, subjects, points).tolist()
