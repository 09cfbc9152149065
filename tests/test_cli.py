import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

from casewise.cli.main import main
from casewise.plugins.phantoms.chest import make_chest
from casewise.run_folder import RunFolder
from casewise.run_folder.job_folder import LOCK

CHEST = "synthetic: true\nweights: random\nbackbones: [test_resnet]\npanels: {by: image}\n"


def casewise(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the shell would, but in this process, which has loaded the libraries before."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["casewise", *words])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_the_command_is_a_program() -> None:
    words = [sys.executable, "-m", "casewise.cli.main"]
    assert subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout.count(".") >= 1
    failed = subprocess.run([*words, "run", "nowhere.yaml"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.plugins(
    "cluster", "explain", "export", "hospital", "init", "node", "serve", "slides", "tracking", "volumes"
)
def test_every_command_has_help() -> None:
    for command in ([], ["run"], ["validate"], ["audit"], ["init"], ["results"], ["predict"], ["bundle"], ["explain"]):
        done = casewise(*command, "-h")
        assert (done.returncode, "Usage" in done.stdout) == (0, True)


def test_importing_casewise_is_light() -> None:
    heavy = "('torch', 'pandas', 'numpy', 'rich')"
    code = f"import sys, casewise, casewise.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_a_model_imports_no_library_that_it_may_not_need() -> None:
    heavy = "('torchvision', 'timm', 'scipy', 'sklearn', 'statsmodels', 'matplotlib', 'torch._dynamo')"
    code = f"import sys, casewise.inference.model; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.plugins("checklist", "init", "phantoms")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.yaml"], "There is no study file nowhere.yaml"),
        (["init", "onestep-psai"], "Did you mean 'onestep-pasi'"),
        (["rnu"], "No such command"),
        (["train", "study.yaml"], "casewise run STUDY"),
        (["report", "runs/demo"], "casewise results RUN"),
        (["eval"], "casewise run STUDY"),
        (["run"], "Missing argument"),
        (["phantom", "chest", "films"], "casewise phantom films --kind chest"),
        (["phantom", "films", "chest"], "casewise phantom films --kind chest"),
        (["phantom", "ches"], "casewise phantom FOLDER --kind chest"),
        (["results", "nowhere", "--output", "x.txt"], "such as page.md"),
        (["checklist", "nowhere", "--of", "claim", "--output", "x"], "such as page.md"),
        (["checklist", "nowhere", "--of", "claim", "--output", "x.txt"], "none of md, html, csv"),
    ],
)
def test_mistakes_end_with_code_2(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = casewise(*words)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_check_tells_the_split_without_training(tiny: Path) -> None:
    done = casewise("validate", str(tiny))
    assert done.returncode == 0, done.stderr
    assert "8 subjects" in done.stdout
    assert "2 backbones × 2 folds = 4 networks" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next: casewise run {tiny}"


def test_settings_are_replaced_on_the_command_line(tiny: Path) -> None:
    study = str(tiny)
    done = casewise("validate", study, "--set", "recipe.epochs=20", "--set", "split.folds=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "epochs 20" in done.stdout
    assert "× 2 folds" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next: casewise run {study} --set=recipe.epochs=20 --set=split.folds=2"
    refused = casewise("validate", study, "--budget", "soon")
    assert refused.returncode == 2
    assert "budget" in refused.stderr
    for command, setting, hint in (
        ("run", "recipe.epohcs=20", "Did you mean 'epochs'"),
        ("audit", "epochs=20", "Did you mean recipe.epochs"),
        ("validate", "budget=1s", "budget: must be at least 60s"),
        ("run", "recipe.epochs", "write KEY=VALUE"),
        ("validate", "recipe.epochs=[", "not valid YAML"),
    ):
        refused = casewise(command, study, "--set", setting)
        assert refused.returncode == 2
        assert hint in " ".join(refused.stderr.split())


def test_the_audit_stops_at_a_marker_until_it_is_accepted(tmp_path: Path) -> None:
    made = ["phantom", str(tmp_path / "films"), "--kind", "chest", "--subjects", "60", "--size", "128x128"]
    assert casewise(*made, "--classes", "covid,no_finding", "--marker", "corner").returncode == 0
    study = tmp_path / "marker.yaml"
    study.write_text(
        f"{CHEST}cohort: films/cases.csv\nimages: {{size: 128, channels: grey}}\n"
        "targets: {label: [covid, no_finding]}\n"
    )
    done = casewise("audit", str(study), "--output", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "error      shortcut-border" in done.stdout
    assert "accept: {shortcut-border:" in done.stderr
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert found["accepted"] == {}
    assert "shortcut-border" in [finding["id"] for finding in found["findings"]]
    accepted = "".join(f"\n  {f['id']}: a letter, on purpose" for f in found["findings"] if f["level"] == "error")
    study.write_text(f"{study.read_text()}accept:{accepted}\n")
    done = casewise("audit", str(study), "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "shortcut-border (accepted)" in done.stdout
    again = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert again["accepted"]["shortcut-border"] == "a letter, on purpose"
    assert again["seconds"] == found["seconds"], "it was looked for again, though nothing had changed"


def test_the_audit_tells_of_a_given_split_that_a_run_refuses(tmp_path: Path) -> None:
    table = make_chest(tmp_path, subjects=12, images=2, size=(64, 64), seed=1)
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    number = rows.groupby("subject", sort=False).ngroup()
    rows["part"] = number.map(lambda n: "test" if n % 3 == 0 else "train")
    rows.loc[rows.drop_duplicates("subject").index[[1, 2]], "part"] = "test"
    one, two = (rows.index[number == n][0] for n in (0, 4))
    shutil.copyfile(tmp_path / rows["path"][one], tmp_path / "copy.png")
    rows.loc[two, "path"] = "copy.png"
    rows.to_csv(table, index=False)
    study = tmp_path / "given.yaml"
    study.write_text(
        f"{CHEST}cohort: cases.csv\nimages: {{size: 64, channels: grey}}\n"
        "targets: {label: [covid, no_finding, pneumonia]}\nsplit: {column: part, folds: 2}\naudit: {permutations: 99}\n"
    )
    done = casewise("audit", str(study), "--output", str(tmp_path / "run"))
    names = list(dict.fromkeys(rows["subject"]))[1:3]
    assert done.returncode == 2
    assert f"puts 2 subjects on several sides: {names[0]}, " in " ".join(done.stderr.split())
    assert "error      subjects-across-splits" in done.stdout
    assert "error      twins-across-splits" in done.stdout
    found = {f["id"]: f for f in json.loads((tmp_path / "run" / "audit.json").read_text())["findings"]}
    assert found["subjects-across-splits"]["figures"]["subjects"] == names
    assert any("copy.png" in path for pair in found["twins-across-splits"]["pairs"] for path in pair)


TORN_DOWN = "class Late:\n    def __del__(self):\n        print('torn down')\n\nlate = Late()\n"
AS_COMMAND = "import sys\nfrom casewise.cli.main import main\nsys.argv = ['casewise', *sys.argv[1:]]\n"
AS_WORKER = """
import os
from casewise.jobs import backends

class Nothing:
    def register(self):
        pass

backends._begin_worker(os.getppid(), Nothing())
"""


@pytest.mark.parametrize(
    ("code", "arguments", "returned", "torn_down"),
    [
        (f"{AS_COMMAND}{TORN_DOWN}main()", ["run", "nowhere.yaml"], 2, False),
        (f"{AS_COMMAND}called, main = main, None\n{TORN_DOWN}called()", ["--version"], 0, True),
        (f"{TORN_DOWN}{AS_WORKER}print('worked')", [], 0, False),
    ],
    ids=["mistake", "within another program", "worker"],
)
def test_a_process_ends_with_its_last_line(code: str, arguments: list[str], returned: int, torn_down: bool) -> None:
    # tearing down an interpreter with torch takes many seconds after the last line
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == returned, ended.stderr
    assert ("torn down" in ended.stdout) is torn_down
    assert (ended.stdout + ended.stderr).strip()


ONE_BY_ONE = """
import json, sys
from casewise.cli import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["casewise", *words]
    try:
        main.main()
    except SystemExit as end:
        print("ended", end.code, "torch" in sys.modules)
"""


def test_arguments_are_checked_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").touch()
    (tmp_path / "cases.csv").touch()
    (tmp_path / "copied").mkdir()
    for name in ("bundle.json", "metrics.json"):
        (tmp_path / "copied" / name).touch()
    predict = ["predict", "run", "cases.csv", "--output"]
    commands = [
        ["serve", "nope.zip"],
        ["serve", "cases.csv"],
        ["serve", "."],
        ["serve", "copied"],
        ["predict", "nope", "cases.csv", "--output", "new.csv"],
        ["predict", "run", "nope.csv", "--output", "new.csv"],
        [*predict, "new.txt"],
        [*predict, "new.csv", "--root", "nope"],
        ["predict", "run", ".", "--output", "new.csv", "--root", "."],
        [*predict, "new.csv", "--trust", "nope"],
        ["export", "nope", "--to", "onnx", "--output", "new"],
        ["export", "run", "--to", "onnx", "--output", "."],
        ["explain", "nope"],
        ["bundle", "run", "--output", "new.txt"],
    ]
    called = [sys.executable, "-c", ONE_BY_ONE, json.dumps(commands)]
    done = subprocess.run(called, capture_output=True, text=True, cwd=tmp_path)
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == ["ended 2 False"] * len(commands), done.stdout + done.stderr


WORK_OF_A_MINUTE = """
import sys, time
from pathlib import Path
import casewise.run
from casewise.files import replacing
from casewise.run_folder import RunFolder

def work(study, output, *, show):
    with RunFolder(output).lock(), replacing(Path(output) / "page"):
        print("begun", flush=True)
        time.sleep(60)

sys.modules["casewise.run"].run = work
"""


def test_a_stop_from_outside_releases_locks_and_leaves_nothing_unfinished(tiny: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", f"{WORK_OF_A_MINUTE}{AS_COMMAND}main()", "run", str(tiny), "--output", run.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "begun" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        assert process.stderr.read().split("\n")[-2] == "stopped; run again to continue"
    assert process.returncode == 128 + signal.SIGTERM
    assert not run.at_work()
    assert [path.name for path in run.path.iterdir()] == [LOCK]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_lost_output_is_no_success() -> None:
    command = [sys.executable, "-c", f"{AS_COMMAND}main()", "--version"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stdout=full, stderr=subprocess.DEVNULL, env=buffered).returncode == 1
