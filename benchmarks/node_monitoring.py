"""How often does monitoring raise a false alarm, and after how many studies does it notice a change?

    python benchmarks/node_monitoring.py [--studies 100] [--output docs/results/node-monitoring.md]

# Monitoring of a node, simulated

Images of the simulated nodes are {films}
films of the chest phantom, measured as by the input checks ({numbers} numbers with the look and its directions);
scanner A makes 60 % of the studies, and scanner B shows the films with more contrast. A study also has a distance,
flags, a probability, a score and widths: {series} series, each tested over all studies, by scanner and by site. The
first {baseline} studies are the baseline. Outcomes arrive for 30 % of the studies.

{finding}

## Without a change

{weeks} weeks. A false alarm is a finding that the page would report; several series that change together are one. An
alarm depends on the studies before it only, and stays, so that the last page has those of all nights. Intervals: 95 %
(Poisson). Nightly: every series of the studies of the day against the baseline by Kolmogorov and Smirnov at 5 %, in
nights with at least one significant difference.

{quiet}

Outcomes that become known later, with a page every night: the share of nodes in which some page of {weeks} weeks says
that outcomes changed, of {delayed_nodes} nodes with {outcomes_per_day} studies a day. At most {bound} are allowed,
a quarter of a false alarm a year. Days until an outcome is known are exponential, with the stated means.

{delayed}

## With a change

{nodes} nodes each. The share of nodes in which the change is noticed within {within} days, and the median number of
studies from the change to the night of the alarm (–: fewer than half notice it). In brackets the same of windows: the
last {window} studies against the baseline by Kolmogorov and Smirnov, every night, at {rate} false alarms a year by
Bonferroni over nights and series; they do not read outcomes. A new scanner with a name of its own is reported
with its third study, and is not in the table.

{shifts}

- Other processing: films of scanner A get gamma 0.9 and noise of 3 grey levels; the name of the scanner stays.
- Slightly other processing: gamma 0.96 and noise of 1 grey level.
- Other view: one in five studies is of a film cut to the middle three fifths of its width.
- Prevalence doubled: 30 % of the subjects have the finding instead of 15 %.
- Slow drift: the processing of scanner A changes step by step, and has the gamma 0.9 and the noise after 90 days.
- Calibration: the odds of the finding are twice those predicted; noticed by the outcomes of 30 % of the studies, which
  are known at once here; with `outcomes_after: 90` it is noticed 90 days later.

At most one false alarm a year is a bound for exchangeable studies and is not fitted to these simulations, so the rate
is lower. Differences below 0.1 (Kolmogorov and Smirnov) are not reported. Seasons are not simulated, nor subjects who
come often: studies of a subject within 30 days count once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from pages import head_of, publish, simulation_parser, table
from scipy.special import expit, kolmogorov
from scipy.stats import chi2

from casewise.inference.image_measures import BLACK, WHITE, Measures, gridded
from casewise.inference.input_checks import numbers_of_batch
from casewise.inference.look import Look
from casewise.plugins.node.monitoring.outcomes import Outcomes, Window, outcome_changes
from casewise.plugins.node.monitoring.sequential import DAYS_OF_YEAR, Floats
from casewise.plugins.node.monitoring.series import DAY, Kind, Quantity, Studies
from casewise.plugins.node.monitoring.shift import ALARMS_A_YEAR, OF_OUTCOMES, Change, changes
from casewise.plugins.node.monitoring.summary import groups
from casewise.plugins.phantoms.chest import FINDINGS, draw_film

FILMS, SIDE = 300, 96
BASELINE, DAYS, WITHIN, WINDOW = 200, 350, 60, 100
PER_DAY = (20, 60, 200)
PREVALENCE, OF_SCANNER_A, WITH_OUTCOME, DRIFT_DAYS = 0.15, 0.6, 0.3, 90
# Mean days until a positive and a negative outcome is known, and the age of studies whose outcomes are tested.
DELAYS, AFTER, OUTCOMES_PER_DAY = ((30.0, 30.0), (7.5, 30.0)), 90, 20
FINDING, SCORE = "finding", "score"
PROBABILITY = Quantity(Kind.PROBABILITY, FINDING, "yes")


@dataclass(frozen=True)
class Shift:
    """What changes: the images of scanner A, the share of another view, the prevalence, the odds of outcomes."""

    processing: str = ""
    slow: bool = False
    other_view: float = 0.0
    prevalence: float = PREVALENCE
    odds: float = 1.0


SHIFTS = {
    "other processing": Shift("processed"),
    "slightly other processing": Shift("slightly"),
    "other view": Shift(other_view=0.2),
    "prevalence doubled": Shift(prevalence=2 * PREVALENCE),
    "slow drift": Shift("processed", slow=True),
    "calibration": Shift(odds=2.0),
}


@dataclass(frozen=True, eq=False)
class Pools:
    """By the kind of image, the numbers of the same films: name of a number -> (FILMS,)."""

    numbers: dict[str, dict[str, Floats]] = field(default_factory=dict)

    @classmethod
    def drawn(cls) -> Pools:
        """Those of chest phantoms."""
        rng = np.random.default_rng(0)
        films = [
            draw_film(number, finding=FINDINGS[number % len(FINDINGS)], size=(SIDE, SIDE)).picture.astype(float)
            for number in range(FILMS)
        ]
        kinds = {
            "A": films,
            "B": [_processed(film, 1.0, 0, rng, contrast=1.15) for film in films],
            "processed": [_processed(film, 0.9, 3, rng) for film in films],
            "slightly": [_processed(film, 0.96, 1, rng) for film in films],
            "view": [cv2.resize(film[:, SIDE // 5 : -SIDE // 5], (SIDE, SIDE)) for film in films],
        }
        measured = {kind: _measured(images) for kind, images in kinds.items()}
        both = [np.concatenate([getattr(measured[kind], name) for kind in "AB"]) for name in ("values", "grids")]
        look = Look.fit(Measures(*both).look)
        return cls({kind: numbers_of_batch(measures, look) for kind, measures in measured.items()})

    @property
    def limit(self) -> float:
        """The look that one in twenty images of both scanners exceeds."""
        return float(np.quantile(np.concatenate([self.numbers[kind]["look"] for kind in "AB"]), 0.95))


def _processed(
    film: np.ndarray, gamma: float, noise: float, rng: np.random.Generator, contrast: float = 1
) -> np.ndarray:
    shown = 255 * (film / 255) ** gamma
    shown = (shown - shown.mean()) * contrast + shown.mean() + noise * rng.normal(size=film.shape)
    return np.rint(shown.clip(0, 255))


def _measured(films: Sequence[np.ndarray]) -> Measures:
    """As `casewise.inference.image_measures.measure`, of images that are in no store."""
    values = [
        [film.mean() / 255, film.std() / 255, (film <= BLACK).mean(), (film >= WHITE).mean(), np.log2(SIDE), 0.0, 0.0]
        for film in films
    ]
    sizes = [len(cv2.imencode(".png", film.astype(np.uint8))[1]) / SIDE**2 for film in films]
    return Measures(np.array(values), np.array([gridded(film / 255) for film in films]), np.log2(sizes))


def node(pools: Pools, rng: np.random.Generator, days: int, per_day: int, shift: Shift, day: int) -> Outcomes:
    """A node of so many days that changes on a day; its studies, with outcomes as two of the series."""
    n = days * per_day
    of_day = np.repeat(np.arange(days), per_day)
    is_changed = of_day >= day
    scanners = np.where(rng.random(n) < OF_SCANNER_A, "A", "B")
    film = rng.integers(FILMS, size=n)
    degree = ((of_day - day) / DRIFT_DAYS).clip(0, 1) if shift.slow else is_changed.astype(float)
    degree = np.where(scanners == "A", degree, 0) if shift.processing else np.zeros(n)
    other = is_changed & (rng.random(n) < shift.other_view)
    series: dict[Quantity, Floats] = {}
    for name in pools.numbers["A"]:
        own = np.where(scanners == "A", pools.numbers["A"][name][film], pools.numbers["B"][name][film])
        if shift.processing:
            own = own + degree * (pools.numbers[shift.processing][name][film] - own)
        series[Quantity(Kind.NUMBER, name)] = np.where(other, pools.numbers["view"][name][film], own)
    look = series[Quantity(Kind.NUMBER, "look")] / pools.limit
    series[Quantity(Kind.DISTANCE)] = look * np.exp(0.1 * rng.normal(size=n))
    series[Quantity(Kind.FLAGGED)] = (look * np.exp(0.1 * rng.normal(size=n)) > 1).astype(float)
    series[Quantity(Kind.REFUSED)] = (rng.random(n) < 0.01).astype(float)
    ill = rng.random(n) < np.where(is_changed, shift.prevalence, PREVALENCE)
    odds = 2 * rng.normal(size=n) + np.where(ill, 2, -2)
    p = expit(odds + np.log(PREVALENCE / (1 - PREVALENCE)))
    if shift.prevalence != PREVALENCE:
        outcome = ill
    else:
        outcome = rng.random(n) < p / (p + (1 - p) / np.where(is_changed, shift.odds, 1.0))
    series[PROBABILITY] = p
    series[Quantity(Kind.PREDICTION, SCORE)] = rng.gamma(2, 2, n) + 3 * p
    series[Quantity(Kind.SET_SIZE, FINDING)] = 1.0 + ((p > 0.1) & (p < 0.9))
    series[Quantity(Kind.WIDTH, SCORE)] = 4 + rng.gamma(2, 0.5, n)
    known_later = rng.random(n) < WITH_OUTCOME
    calibration = Quantity(Kind.CALIBRATION, FINDING, "yes")
    series[calibration] = np.where(known_later, outcome, np.nan).astype(float)
    series[Quantity(Kind.WRONG, FINDING)] = np.where(known_later, outcome != (p > 0.5), np.nan).astype(float)
    at = (of_day + (np.arange(n) % per_day + 0.5) / per_day) * DAY
    names, sites = rng.integers(2**60, size=n).astype(str), np.full(n, "one site")
    return Outcomes(
        Studies(names, at, scanners, sites, np.ones(n, dtype=bool), series), {calibration: p.clip(0.001, 0.999)}
    )


def divided(outcomes: Outcomes) -> tuple[Studies, Outcomes]:
    """The studies without outcomes, and the outcomes."""
    own = outcomes.studies
    columns = (own.names, own.at, own.scanners, own.sites, own.tested)
    of_outcomes = {each: own.series[each] for each in own.series if each.kind in (Kind.CALIBRATION, Kind.WRONG)}
    inputs = {each: values for each, values in own.series.items() if each not in of_outcomes}
    return Studies(*columns, inputs), Outcomes(Studies(*columns, of_outcomes), outcomes.expected)


def changes_in(outcomes: Outcomes) -> list[Change]:
    """Everything that monitoring reports."""
    studies, later = divided(outcomes)
    return [*changes(studies, BASELINE), *outcome_changes(later)]


def nights_with_difference(studies: Studies, level: float, window: int = 0) -> np.ndarray:
    """The days (from 0) on which some series differs from the baseline by Kolmogorov and Smirnov at this level.

    Args:
        window: how many last studies are compared; 0: those of the day.
    """
    ends = np.flatnonzero(np.diff(studies.days, append=-1)) + 1
    per_day, significant = int(ends[0]), np.zeros(len(ends), dtype=bool)
    size = window or per_day
    for quantity, values in studies.series.items():
        first = np.sort(values[:BASELINE])
        for number, end in enumerate(ends):
            if end - size < BASELINE or significant[number]:
                continue
            last = np.sort(values[end - size : end])
            if quantity.is_share:
                share = (values[:BASELINE].sum() + last.sum()) / (BASELINE + size)
                error = np.sqrt(max(share * (1 - share), 1e-9) * (1 / BASELINE + 1 / size))
                p = float(chi2.sf(((last.mean() - values[:BASELINE].mean()) / error) ** 2, 1))
            else:
                points = np.concatenate([first, last])
                shares = [np.searchsorted(each, points, side="right") / len(each) for each in (first, last)]
                gap = np.abs(shares[0] - shares[1]).max()
                p = float(kolmogorov(np.sqrt(BASELINE * size / (BASELINE + size)) * gap))
            significant[number] = p <= level
    return np.flatnonzero(significant)


def rate(count: int, years: float) -> str:
    """A rate a year with its interval."""
    low, high = (chi2.ppf(0.025, 2 * count) / 2 if count else 0.0), chi2.ppf(0.975, 2 * count + 2) / 2
    return f"{count / years:.2f} [{low / years:.2f}, {high / years:.2f}]"


def quiet_rows(pools: Pools, nodes: int) -> list[list[object]]:
    """False alarms without a change, by studies a day."""
    rows = []
    for per_day in PER_DAY:
        repeats = max(nodes // 3, 2) if per_day == max(PER_DAY) else nodes
        count = nights = 0
        for number in range(repeats):
            outcomes = node(pools, np.random.default_rng([per_day, number]), DAYS, per_day, Shift(), DAYS)
            count += len(groups(changes_in(outcomes)))
            if number < 5:
                nights += len(nights_with_difference(divided(outcomes)[0], 0.05))
        years = repeats * DAYS / DAYS_OF_YEAR
        naive = nights / (min(repeats, 5) * DAYS / DAYS_OF_YEAR)
        rows.append([per_day, repeats, rate(count, years), f"{naive:.0f}"])
        print(*rows[-1], flush=True)
    return rows


def is_alarmed(outcomes: Outcomes, rng: np.random.Generator, delays: tuple[float, float], after: int) -> bool:
    """Whether some nightly page says that outcomes changed, which become known after their delays."""
    studies, (calibration,) = outcomes.studies, outcomes.expected
    positive = studies.series[calibration]
    at = studies.at / DAY + rng.exponential(np.where(positive == 1, *delays))
    for night in range(after, DAYS + 1):
        rows = np.isfinite(positive) & (at <= night)
        expected = {quantity: values[rows] for quantity, values in outcomes.expected.items()}
        own = Outcomes(studies.subset(rows), expected, window=Window(0, night * DAY, after))
        if outcome_changes(own):
            return True
    return False


def delayed_rows(pools: Pools, nodes: int) -> list[list[object]]:
    """Nodes with a false alarm of outcomes that become known later."""
    rows: list[list[object]] = []
    for delays in DELAYS:
        shares = []
        for after in (0, AFTER):
            count = 0
            for number in range(nodes):
                rng = np.random.default_rng([int(delays[0]), number])
                outcomes = divided(node(pools, rng, DAYS, OUTCOMES_PER_DAY, Shift(), DAYS))[1]
                count += is_alarmed(outcomes, rng, delays, after)
            shares.append(f"{count / nodes:.0%}")
        rows.append([*(f"{mean:g}" for mean in delays), *shares])
        print(*rows[-1], flush=True)
    return rows


def detection(pools: Pools, name: str, per_day: int, nodes: int) -> str:
    """The share of nodes that notice a shift, the median number of studies until then, and those of the windows."""
    shift, day = SHIFTS[name], max(20, -(-2 * BASELINE // per_day))
    within = DRIFT_DAYS if shift.slow else WITHIN
    waits, window_waits = [], []
    for number in range(nodes):
        rng = np.random.default_rng([list(SHIFTS).index(name), per_day, number])
        outcomes = node(pools, rng, day + within, per_day, shift, day)
        days = [int(change.detected or 0) // DAY for change in changes_in(outcomes)]
        waits.append(min((each - day + 1 for each in days if each >= day), default=np.inf))
        studies = divided(outcomes)[0]
        level = ALARMS_A_YEAR / DAYS_OF_YEAR / len(studies.series)
        windows = nights_with_difference(studies, level, WINDOW)
        window_waits.append(min((each - day + 1 for each in windows if each >= day), default=np.inf))
    texts = []
    for own in (np.array(waits), np.array(window_waits)):
        middle = float(np.quantile(own, 0.5, method="inverted_cdf")) * per_day
        texts.append(f"{np.isfinite(own).mean():.0%}, " + (f"{middle:.0f}" if np.isfinite(middle) else "–"))
    return f"{texts[0]} ({texts[1]})"


def main() -> None:
    """Simulate, print and write the page."""
    parser = simulation_parser(__doc__, 100)
    settings, start = parser.parse_args(), time.perf_counter()
    pools = Pools.drawn()
    quiet, delayed_nodes = quiet_rows(pools, settings.studies), max(settings.studies // 2, 2)
    delayed = delayed_rows(pools, delayed_nodes)
    shift_rows = []
    for name in SHIFTS:
        cells = [detection(pools, name, per_day, max(settings.studies // 4, 2)) for per_day in PER_DAY]
        shift_rows.append([name, *cells])
        print(*shift_rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    studies = divided(node(pools, np.random.default_rng(0), 20, 20, Shift(), 20))[0]
    page = head_of(
        __doc__,
        films=FILMS,
        numbers=len(pools.numbers["A"]),
        series=len(studies.series),
        baseline=BASELINE,
        weeks=DAYS // 7,
        within=f"{WITHIN} (slow drift: {DRIFT_DAYS})",
        window=WINDOW,
        finding=finding(quiet),
        nodes=max(settings.studies // 4, 2),
        delayed_nodes=delayed_nodes,
        outcomes_per_day=OUTCOMES_PER_DAY,
        bound=f"{OF_OUTCOMES * DAYS / DAYS_OF_YEAR:.0%}",
        rate=ALARMS_A_YEAR,
        delayed="\n".join(
            table(
                ["positive: days", "negative: days", "all studies tested", f"tested after {AFTER} days"],
                delayed,
            )
        ),
        quiet="\n".join(
            table(["studies a day", "nodes", "false alarms a year", "nightly at 5 %: nights a year"], quiet)
        ),
        shifts="\n".join(table(["change", *(f"{per_day} a day" for per_day in PER_DAY)], shift_rows)),
    )
    publish(page, settings.output)
    print(f"{time.perf_counter() - start:.0f} s")


def finding(quiet: list[list[object]]) -> str:
    """The rates of false alarms in one sentence."""
    rates = " / ".join(str(row[2]) for row in quiet)
    naive = " / ".join(str(row[3]) for row in quiet)
    days = " / ".join(str(row[0]) for row in quiet)
    return (
        f"With {days} studies a day there are {rates} false alarms a year; at most one is allowed. Comparing every"
        f" night at 5 % would give an alarm in {naive} nights a year."
    )


if __name__ == "__main__":
    main()
