"""Makes the pages of docs/results, in an order that may be interrupted, and their index.

    python benchmarks/evidence.py [--list] [--only PAGE ...] [--release] [--data FOLDER] [--weights FOLDER]

`evidence.yaml` states for each page its claim, the commands that make it, and where its figure stands on it. A page
states the version, commit, date and command that made it, and stays valid for that commit: later commits do not outdate
it. Pages that are missing are made; `--only` makes pages again whose figures are meant to change, and `--release` every
page of an earlier version. A failed page is named at the end; the others are made nevertheless. Runs lie in `runs`,
which must have none of other code, and continue where they were interrupted.
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
RESULTS = ROOT / "docs" / "results"
INDEX = RESULTS / "index.md"
# The code of a page, and the file that names the commit of the runs in `runs`.
CODE = ("src", "studies")
RUNS = ROOT / "runs" / "evidence.txt"
# The first figure of a page by `casewise results`, that of a guess, and the AUROC or kappa.
RESULT = (r"## Result.*?\n\| [^|\n]+ \| ([^|\n]+) \| (95 % interval [^|\n]+) \|\n(.*?)\n\nWhere does it", "{}, {}. {}")
STAMP = re.compile(r"\n\*Made with casewise (\S+), commit ([0-9a-f]{8,40}), on (\d+ \w+ \d{4}): `(.*)`\.\*\n$")
HEAD = """# Evidence

What was measured, the figure, the page with its details, and the version that made it. A page is valid for the commit
that it names at its end, beside its command; later commits do not outdate it. `make evidence EVIDENCE="--only PAGE"`
makes a page again, and `make evidence EVIDENCE=--release` all pages of earlier versions: about a day on two cores; it
may be interrupted. Pages on real images need their packs.

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

    @property
    def made_with(self) -> str:
        """The version that made it, and the date; empty if the page is missing or does not state them."""
        stamp = STAMP.search(self.text())
        return f"{stamp[1]}, {stamp[3]}" if stamp else ""


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


def is_code_of(commit: str) -> bool:
    """Whether the code in the folder equals the code of a commit."""
    return git("diff", "--quiet", commit, "--", *CODE).returncode == 0


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
        (
            page.claim,
            page.figure_text() or "–",
            f"[{page.page}]({page.page}.md)",
            page.made_with,
        )
        for page in pages
        if page.path.exists()
    ]
    return HEAD + "\n".join(table(("what", "figure", "page", "made with"), rows)) + "\n"


def main() -> None:
    """Make the missing or named pages, then the index."""
    parser = parser_of(__doc__)
    parser.add_argument("--list", action="store_true", help="name the pages that would be made, and make none")
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="make these pages again")
    parser.add_argument("--release", action="store_true", help="make every page of an earlier version again")
    parser.add_argument("--data", default="../shared/data", help="the folder of the packs")
    parser.add_argument("--weights", default="../shared/weights", help="the folder of the first weights")
    options = parser.parse_args()
    pages, failed = read_evidence(), list[str]()
    if unknown := set(options.only or ()) - {page.page for page in pages}:
        parser.error(f"There is no page {', '.join(sorted(unknown))}; there are {', '.join(p.page for p in pages)}.")
    due = [
        page
        for page in pages
        if page.page in (options.only or ())
        or (not options.only and not page.made_with)
        or (options.release and not page.made_with.startswith(f"{__version__}, "))
    ]
    write_atomic(INDEX, index(pages))
    if options.list or not due:
        print("\n".join(page.page for page in due) or "No page is missing.")
        return
    if git("status", "--porcelain", "--", *CODE).stdout:
        sys.exit(f"{' and '.join(CODE)} have changes that are not committed. A page states the commit of its code.")
    others = [path.name for path in RUNS.parent.glob("*") if not path.name.startswith("demo")]
    if others and not (RUNS.exists() and is_code_of(RUNS.read_text())):
        sys.exit(
            f"{RUNS.parent} has runs of other code, or of code that is not known: {', '.join(sorted(others))}. "
            "Rename it: a page must not show runs of another commit."
        )
    write_atomic(RUNS, git("rev-parse", "HEAD").stdout.strip())
    for page in due:
        begun = time.monotonic()
        if make(page, {"DATA": options.data, "WEIGHTS": options.weights}):
            print(f"{page.page}: made in {duration(time.monotonic() - begun)}", flush=True)
        else:
            failed.append(page.page)
        write_atomic(INDEX, index(pages))
    if failed:
        sys.exit(f"Not made: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
