"""Makes every page of docs/results on one commit, in an order that may be interrupted, and the index of them.

    python benchmarks/evidence.py [--list] [--only PAGE ...] [--data FOLDER] [--weights FOLDER]

`evidence.yaml` states each page: its claim, the commands that make it, and where its figure stands on it. A page is
made again unless its last line states this version and a commit with the same code. What fails is named at the end; the
others are made nevertheless. Runs lie in `runs`, which must have none of other code, and continue where they were
interrupted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pages import parser_of, table

from casewise.console import duration
from casewise.files import write_atomic
from casewise.version import __version__

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, INDEX = ROOT / "docs" / "results", ROOT / "docs" / "evidence.md"
# What decides whether a page must be made again, and the commit of the runs in `runs`.
CODE = ("src", "studies")
RUNS = ROOT / "runs" / "evidence.txt"
# Commits of this code that change no figure of an earlier page, and what they change.
SAME_FIGURES = {
    "28cbf8e9": "outlines of masks in the pictures of `casewise explain`, which stopped there",
    "15448589": "the description of studies/lgg-histology.yaml",
    "44745079": "descriptions of three studies, and a comment",
    "d63808b1": "that comment, as it was before",
    "b3492072": "the descriptions of studies/lgg.yaml and studies/pancreas-planted-fine.yaml",
    "87d005c3": "words of reports; pages whose words changed were made again",
    "b8bf77a9": "that a test set is below the folds, and two captions, in reports; such pages were made again",
    "485b2e04": "how `casewise init` reads folders of classes beside a table",
    "e7c07066": "that a combined model is one learner for new cases, in reports; the page with one was made again",
    "159ec887": "that folders of new cases are not subjects where the training knew none",
    "3aadfea5": "which new cases have no prediction, and which folders `casewise init` takes for classes",
    "b546eaf2": "that identifiers of new cases are compared once a chunk",
    "7e480733": "that scans of a new case stay together, and a sentence of reports; the page with it was made again",
    "e102ec60": "that an image that states little hides no second patient among new cases",
    "0c5de19a": "that `casewise serve` refuses visits of several patients in one request",
    "ec90fa88": "which new cases have no prediction, and how cases without a report for a PACS are listed",
}
# The first figure of a page by `casewise results`, that of a guess, and the AUROC or kappa.
RESULT = (r"## Result.*?\n\| [^|\n]+ \| ([^|\n]+) \| (95 % interval [^|\n]+) \|\n(.*?)\n\nWhere does it", "{}, {}. {}")
STAMP = re.compile(r"\n\*Made with casewise (\S+), commit ([0-9a-f]{8,40}), on (\d+ \w+ \d{4}): `(.*)`\.\*\n$")
HEAD = """# Evidence

What was measured, the figure, the page with its details, and the command that makes it. `make evidence` makes all
pages, which takes about a day on two cores, and may be interrupted. Pages on real images need their packs.

"""


@dataclass(frozen=True)
class Evidence:
    """A page of results.

    Attributes:
        claim: what it is about, in a sentence.
        figure: a regular expression, whose groups are figures on the page; said: how they are said, by `str.format`.
        commands: that make it, the last of which writes it.
        title: of a page that is what the commands print; empty for other pages.
    """

    page: str
    claim: str
    figure: str
    said: str
    commands: tuple[str, ...]
    title: str

    @property
    def path(self) -> Path:
        """The page."""
        return RESULTS / f"{self.page}.md"

    @property
    def written_by(self) -> str:
        """The commands that print it, or the one that writes it."""
        return "; ".join(self.commands) if self.title else self.commands[-1]

    def text(self) -> str:
        """The page; empty if it is missing."""
        return self.path.read_text() if self.path.exists() else ""

    def figure_text(self) -> str:
        """Its figure, for the index; empty if the page lacks it."""
        found = (
            self.said.format(*(group.strip().replace("\n\n", ". ") for group in match.groups()))
            for match in re.finditer(self.figure, self.text(), re.DOTALL)
        )
        return "; ".join(dict.fromkeys(" ".join(text.split()) for text in found))

    def is_current(self) -> bool:
        """Whether it was made by this version and this code."""
        stamp = STAMP.search(self.text())
        return stamp is not None and stamp[1] == __version__ and same_code(stamp[2])


def read_evidence() -> list[Evidence]:
    """The pages, in the order in which they are made."""
    entries = yaml.safe_load((HERE / "evidence.yaml").read_text())
    return [
        Evidence(name, entry["claim"], *entry.get("figure", RESULT), tuple(entry["commands"]), entry.get("title", ""))
        for name, entry in entries.items()
    ]


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """What git answers."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def same_code(commit: str) -> bool:
    """Whether the code of a commit is that of the folder, but for commits that change no figure."""
    between, uncommitted = git("rev-list", f"{commit}...HEAD", "--", *CODE), git("diff", "--quiet", "HEAD", "--", *CODE)
    commits = [name[:8] for name in between.stdout.split()]
    return between.returncode == uncommitted.returncode == 0 and set(commits) <= set(SAME_FIGURES)


def make(evidence: Evidence, options: dict[str, str]) -> bool:
    """Make a page; whether it could be made."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | options
    printed = []
    for command in evidence.commands:
        print(f"{evidence.page}: {command}", flush=True)
        stdout = subprocess.PIPE if evidence.title else None
        done = subprocess.run(
            ["bash", "-euc", command], cwd=ROOT, env=environment, stdout=stdout, text=True, check=False
        )
        if done.returncode:
            return False
        printed.append(f"$ {command}\n{done.stdout}")
    if evidence.title:
        write_atomic(evidence.path, f"# {evidence.title}\n\n```text\n{''.join(printed)}```\n")
    commit, now = git("rev-parse", "--short=8", "HEAD").stdout.strip(), datetime.now(UTC)
    stamp = (
        f"\n*Made with casewise {__version__}, commit {commit}, on {now.day} {now:%B %Y}: `{evidence.commands[-1]}`.*\n"
    )
    text = STAMP.sub("", evidence.text())
    for folder in options.values():  # as stated, and not where it lies on this machine
        text = text.replace(str((ROOT / folder).resolve()), folder)
    write_atomic(evidence.path, text.rstrip() + "\n" + stamp)
    return True


def index(pages: list[Evidence]) -> str:
    """The page of all claims."""
    rows = [
        (each.claim, each.figure_text() or "–", f"[{each.page}](results/{each.page}.md)", f"`{each.written_by}`")
        for each in pages
        if each.path.exists()
    ]
    return HEAD + "\n".join(table(("what", "figure", "page", "command"), rows)) + "\n"


def main() -> None:
    """Make what is not current, then the index."""
    parser = parser_of(__doc__)
    parser.add_argument("--list", action="store_true", help="name the pages that are not current, and make none")
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="make these pages only")
    parser.add_argument("--data", default="../shared/data", help="the folder of the packs")
    parser.add_argument("--weights", default="../shared/weights", help="the folder of the first weights")
    options = parser.parse_args()
    pages, failed = read_evidence(), list[str]()
    outdated = [each for each in pages if not each.is_current() and each.page in (options.only or (each.page,))]
    write_atomic(INDEX, index(pages))
    if options.list or not outdated:
        print("\n".join(each.page for each in outdated) or "All pages are current.")
        return
    if git("status", "--porcelain", "--", *CODE).stdout:
        sys.exit(f"{' and '.join(CODE)} have changes that are not committed. A page states the commit of its code.")
    others = [each.name for each in RUNS.parent.glob("*") if not each.name.startswith("demo")]
    if others and not (RUNS.exists() and same_code(RUNS.read_text())):
        sys.exit(
            f"{RUNS.parent} has runs of other code, or of code that is not known: {', '.join(sorted(others))}. "
            "Rename it: a page must not show them as those of this commit."
        )
    write_atomic(RUNS, git("rev-parse", "HEAD").stdout.strip())
    for each in outdated:
        begun = time.monotonic()
        if make(each, {"DATA": options.data, "WEIGHTS": options.weights}):
            print(f"{each.page}: made in {duration(time.monotonic() - begun)}", flush=True)
        else:
            failed.append(each.page)
        write_atomic(INDEX, index(pages))
    if failed:
        sys.exit(f"Not made: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
