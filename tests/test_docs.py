"""What the documentation says exists: commands, options, files, links, study files, columns, metrics."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from casewise.audit import evidence, findings, probes, shortcuts
from casewise.cli.main import command_line
from casewise.metrics.registry import metric_names
from casewise.predictions.stacking import META_LEARNERS
from casewise.predictions.table import COLUMNS
from casewise.study.loading import read_study
from casewise.study.schema import Study
from tests.test_run_folder import file_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))
PLACES = ("studies/", "docs/", "src/", "tests/", "benchmarks/", ".ci/")
every_plugin = pytest.mark.plugins(
    "cluster", "explain", "export", "hospital", "init", "node", "serve", "slides", "tracking", "volumes"
)
pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def code(page: Path) -> Iterator[str]:
    """Inline code, and the lines of shell blocks without their remarks."""
    yield from re.findall(r"`([^`\n]+)`", prose(page))
    for block in blocks(page, "sh"):
        yield from (line.split("  #")[0].strip() for line in block.splitlines())


def build(docs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(docs / "build.py"), *words], capture_output=True, text=True, timeout=120)


@every_plugin
def test_the_made_pages_are_current() -> None:
    done = build(DOCS, "--check")
    assert done.returncode == 0, done.stderr


def test_no_package_that_runs_studies_is_under_the_gpl_or_states_nothing() -> None:
    kinds = re.findall(r"^- \*\*(.+)\*\*: ", (DOCS / "reference-licences.md").read_text(), re.MULTILINE)
    assert {"MIT", "BSD", "Apache 2.0"} <= set(kinds)
    assert not {"GPL", "not stated"} & set(kinds)


@every_plugin
def test_the_schema_for_editors_accepts_every_key() -> None:
    schema = json.loads((DOCS / "study.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {"extends", *Study.model_fields}
    for name, section in schema["$defs"].items():
        for key, value in section["properties"].items():
            assert value.get("description"), f"{name}.{key}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run([sys.executable, "-m", "mkdocs", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//", text), page.name
        assert not re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect)\"?[^>]* href=\"?(?:https?:)?//", text)


@pytest.mark.slow
def test_the_reference_of_python_has_every_public_name(site: Path) -> None:
    import casewise

    text = "".join(page.read_text(encoding="utf-8") for page in site.glob("reference-api*.html"))
    for name in set(casewise.__all__) - {"__version__"}:
        assert re.search(rf'id="casewise\.(?:[\w.]+\.)?{name}"', text), name


@every_plugin
@pages
def test_commands_and_options_exist(page: Path) -> None:
    commands = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in code(page):
        if found := re.match(r"casewise ([a-z][\w-]*)(?: ([a-z]+))?", text):
            assert found[1] in commands, text
            command = commands[found[1]]
            command = getattr(command, "commands", {}).get(found[2], command)
            known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            assert set(re.findall(r"(?<!\S)--[\w-]+", text)) <= known, text
        for name in re.findall(r"\bmake ([a-z-]+)", text):
            assert name in targets, text


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for name in typer.main.get_command(command_line()).commands:  # type: ignore[attr-defined]
        assert f"`casewise {name}" in text, name


@pages
def test_files_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # it names files of earlier days, too
        return
    for text in code(page):
        for name in re.findall(r"[\w./-]+", text):
            if name.startswith(PLACES) and not re.search(r"[<*]", text):
                assert (ROOT / name).exists(), name


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_plugin
@pages
def test_examples_read_as_study_files(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        head, path = text.splitlines()[0], tmp_path / "study.yaml"
        if head == "# node file":
            from casewise.plugins.node.settings import read_settings

            path.write_text(text)
            assert read_settings(path).bundle
            continue
        if head.startswith("# study file: "):
            path = tmp_path / head.removeprefix("# study file: ")
        else:
            found = re.fullmatch(r"# in (?:the study file|a study file that extends (\S+))", head)
            assert found, f"{page.name}: say what this is: {head}"
            given = set(re.findall(r"^(\w+):", text, re.MULTILINE))
            below = {"extends": found[1] or "onestep-pasi", "cohort": "cohort.csv"}
            text += "".join(f"\n{key}: {value}" for key, value in below.items() if key not in given)
        path.write_text(text)
        assert read_study(path).outputs


@pages
def test_no_place_of_one_machine_is_named(page: Path) -> None:
    found = re.findall(r"(?<![\w.~])/(?:home|root|tmp|mnt|srv|work|Users)/\S*", page.read_text())
    assert not found


def test_columns_metrics_and_files_of_a_run_are_described() -> None:
    told = set(re.findall(r"`([^`\n]+)`", (DOCS / "reference-run.md").read_text()))
    assert set(COLUMNS) | {"p0", "p1"} <= told
    metrics = (DOCS / "reference-metrics.md").read_text()
    assert all(f"\n- `{name}` (" in metrics for name in metric_names())
    assert set(META_LEARNERS) <= told
    written = file_names()
    assert len(written) > 25
    assert {name for name in written if name not in told and f"{name}/" not in told} == set()


def test_the_audit_page_tells_every_finding_and_the_limits_in_force() -> None:
    page = " ".join((DOCS / "howto-audit.md").read_text().split())
    for name in findings.CODES:
        assert f"`{name}`" in page, name
    for family in findings.FAMILIES:
        assert f"`{family}" in page, family
    limits = (
        f"adjusted p is at most {shortcuts.ALPHA:.2f}",
        f"AUROC of {shortcuts.STRONG_AUROC:.2f} or more",
        f"r of {shortcuts.STRONG_R:.2f} or more",
        f"in {['', 'one', 'two', 'three', 'four', 'five'][probes.FOLDS]} folds",
        f"fewer than {probes.FEWEST} subjects, or for a class with fewer than {probes.FEWEST_OF_CLASS},",
        f"most {evidence.MAX_IMAGES:,} images",
        f"computed for at most {evidence.MAX_EMBEDDED}",
    )
    for limit in limits:
        assert limit in page, limit


def test_the_pages_stand_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= named
    assert yaml.safe_load(text)["validation"]["links"]["anchors"] == "warn"


def test_the_python_guide_uses_only_names_that_import_casewise_gives() -> None:
    import casewise

    guide = (Path(__file__).parents[1] / "docs" / "howto-python.md").read_text()
    assert set(re.findall(r"(?<!from )(?<![\w/.])casewise\.(\w+)(?=[.(])", guide)) <= set(casewise.__all__)
