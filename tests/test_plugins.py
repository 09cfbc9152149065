"""Plugins: what is found, a core without each of them, and a plugin of somebody else in an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise import plugin as plugin_file
from casewise.errors import CasewiseError, StudyError
from casewise.pipeline.hooks import run_hooks
from casewise.plugin import KEYS, Plugin, plugins
from casewise.study import checks, model, sources
from casewise.study.loading import read_study
from casewise.study.model import StudyModel
from casewise.study.schema import Study, study_model
from tests.conftest import TINY

SOURCE = Path(plugin_file.__file__).resolve().parents[1]
NAMES = sorted(path.parent.name for path in (SOURCE / "casewise" / "plugins").glob("*/__init__.py"))
STUDY = TINY.replace("[test_resnet, test_efficientnet]", "[test_resnet]").replace("epochs: 2", "epochs: 1")
STUDY = STUDY.replace("stack: [ridge+intercept]", "stack: []")


@pytest.mark.plugins(*KEYS.values())
def test_each_folder_is_a_plugin_of_its_name() -> None:
    assert [plugin.name for plugin in plugins() if plugin.is_own] == NAMES
    assert set(KEYS.values()) <= set(NAMES)
    for plugin in plugins():
        keys = plugin.study_keys()
        assert {KEYS[key] for key in (keys.model_fields if keys else ())} <= {plugin.name}


@pytest.mark.parametrize(
    ("value", "problem"),
    [("no_such_package_of_anyone:plugin", "ModuleNotFoundError"), ("casewise.version:__version__", "is a str")],
)
def test_a_plugin_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, value: str, problem: str) -> None:
    monkeypatch.setattr(plugin_file, "entry_points", lambda group: [EntryPoint("oct", value, group)])
    plugins.cache_clear()
    with pytest.raises(CasewiseError, match=f"{value.partition(':')[0]}.*{problem}"):
        plugins()
    monkeypatch.undo()
    plugins.cache_clear()


def test_a_plugin_takes_part_in_a_protocol_with_one_of_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Following(Plugin):
        name = "following"

        def on_trained(self, study: Any, folder: Any, show: Any) -> None:
            calls.append(study)

    monkeypatch.setattr(plugin_file, "plugins", lambda: (Following(), Plugin()))
    (hooks,) = run_hooks()
    hooks.on_evaluated("a", "folder", "show")
    hooks.on_trained("b", "folder", "show")
    assert (hooks.repeated("c"), calls) == ("c", ["b"])


class Needed(StudyModel):
    zap: int


@pytest.mark.parametrize(("keys", "problem"), [(Needed, "'zap' a default"), ({"zap": 1}, "a subclass of StudyModel")])
def test_keys_that_no_study_can_have_name_the_plugin(monkeypatch: pytest.MonkeyPatch, keys: Any, problem: str) -> None:
    class Wrong(Plugin):
        name = "wrong"

        def study_keys(self) -> Any:
            return keys

    monkeypatch.setattr(model, "plugins", lambda: (Wrong(),))
    with pytest.raises(CasewiseError, match=f"plugin wrong must .*{problem}"):
        model.with_keys_of_plugins(Study)


@pytest.mark.parametrize(("result", "problem"), [("[]", ""), ("[][0]", "IndexError")])
def test_a_plugin_registers_once_before_the_first_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: str, problem: str
) -> None:
    code = f"""
from casewise.plugin import Plugin

calls = []

class Adding(Plugin):
    name = "adding"

    def register(self):
        from casewise.targets import register_kind
        calls.append(register_kind)
        return {result}

plugin = Adding()
"""
    (tmp_path / "casewise_adding.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugin_file, "entry_points", lambda group: [EntryPoint("a", "casewise_adding:plugin", group)])
    caches = (plugins, study_model)
    for each in caches:
        each.cache_clear()
    try:
        if problem:
            with pytest.raises(CasewiseError, match=f"plugin adding cannot register .*{problem}"):
                study_model()
            # a second call does not register the others again, which would blame them
            with pytest.raises(CasewiseError, match=f"plugin adding cannot register .*{problem}"):
                study_model("unknown")
            assert len(sys.modules["casewise_adding"].calls) == 1
        else:
            assert study_model() is study_model("unknown")
            assert len(sys.modules["casewise_adding"].calls) == 1
    finally:
        monkeypatch.undo()
        sys.modules.pop("casewise_adding", None)
        plugin_file._registered.pop("adding", None)
        for each in caches:
            each.cache_clear()


@pytest.mark.parametrize("key", ["nested_cv", "split.by", "backbones"])
def test_a_design_of_a_plugin_that_is_missing_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    stated = {"nested_cv": "nested_cv: {folds: 2}\n", "backbones": "backbones: [unet]\nweights: random\n"}.get(
        key, "split: {by: image}\npanels: {by: image}\n"
    )
    monkeypatch.setattr(sources, "_REGISTERED", [])
    (tmp_path / "study.yaml").write_text("cohort: a.csv\ntargets: {score: {range: 0..4}}\n" + stated)
    monkeypatch.setattr(checks, "plugins", tuple)
    with pytest.raises(StudyError, match=f"{'unet' if key == 'backbones' else key}.*plugin 'published'"):
        read_study(tmp_path / "study.yaml")


def call(source: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(source)}
    command = [python, "-m", "casewise.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "phantoms"])
def test_photographs_need_no_other_plugin(name: str, phantom: Path, tmp_path: Path) -> None:
    source, study = tmp_path / "src", tmp_path / "study.yaml"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.rmtree(source / "casewise" / "plugins" / name)
    study.write_text(STUDY.format(cohort=phantom))
    run, table = str(tmp_path / "run"), str(tmp_path / "predicted.csv")
    steps = [["--help"], ["validate", str(study)], ["run", str(study), "--output", run, "--quiet"]]
    for words in [*steps, ["predict", run, str(phantom), "--output", table]]:
        done = call(source, *words)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    assert Path(table).is_file()
    key = next((key for key, owner in KEYS.items() if owner == name and "." not in key), None)
    if key:
        study.write_text(STUDY.format(cohort=phantom) + f"{key}: {{}}\n")
        refused = call(source, "validate", str(study))
        assert refused.returncode == 2
        assert f"plugin '{name}'" in " ".join(refused.stderr.split())


# The files of a wheel beside its module, so that no package is needed that builds one.
WHEEL = {
    "METADATA": "Metadata-Version: 2.1\nName: casewise-oct\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "entry_points.txt": "[casewise.plugins]\noct = casewise_oct:plugin\n",
    "RECORD": "",
}
MODULES = {
    "casewise_oct": """
from casewise.plugin import Command, Plugin


def layers() -> None:
    print("ten layers")


class OctPlugin(Plugin):
    name = section = "oct"

    def commands(self):
        return [Command("layers", layers, "Print the layers of the retina.")]

    def study_keys(self):
        from casewise_oct_keys import OctKeys

        return OctKeys

    def modality(self):
        from casewise_oct_modality import Oct

        return Oct()

    def register(self):
        from casewise.models.outputs import NETWORK_KINDS
        from casewise.targets import Number, register_kind

        class Thickness(Number):
            name = "thickness"

        register_kind(Thickness())
        NETWORK_KINDS["thickness"] = NETWORK_KINDS["regression"]


plugin = OctPlugin()
""",
    "casewise_oct_keys": """
from casewise.study.images import ModalitySettings
from casewise.study.model import StudyModel


class OctSettings(ModalitySettings):
    layers: int = 3


class OctKeys(StudyModel):
    oct: OctSettings | None = None
""",
    "casewise_oct_modality": """
from casewise.modalities.base import Noun
from casewise.modalities.photographs.modality import Photographs


class Oct(Photographs):
    name = "oct"

    def noun(self, study):
        return Noun("layer map", "layer maps")
""",
}


@pytest.mark.slow
def test_a_package_of_somebody_else_brings_a_command_and_a_modality(phantom: Path, tmp_path: Path) -> None:
    wheel, home = tmp_path / "casewise_oct-1.0-py3-none-any.whl", tmp_path / "env"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in MODULES.items():
            archive.writestr(f"{name}.py", text)
        for name, text in WHEEL.items():
            archive.writestr(f"casewise_oct-1.0.dist-info/{name}", text)
    venv.create(home, with_pip=True)
    python, own = str(home / "bin" / "python"), next(home.glob("lib/python*/site-packages"))
    (own / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    assert "Print the layers of the retina." in call(SOURCE, "--help", python=python).stdout
    assert call(SOURCE, "layers", python=python).stdout == "ten layers\n"
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(cohort=phantom) + "oct: {layers: 4}\n")
    code = (
        "import sys; from casewise.study.loading import read_study; "
        "from casewise.modalities.registry import modality_of, own_modalities; "
        "s = read_study(sys.argv[1]); "
        "print(modality_of(s).noun(s).plural, s.modality_settings.layers, own_modalities())"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([python, "-c", code, str(study)], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "layer maps 4 ['photographs', 'slides', 'volumes']\n"
    # its kind of target is known to every process that trains, reports and predicts
    text = STUDY.format(cohort=phantom).replace("extends: onestep-pasi\n", "panels: {by: image}\n")
    study.write_text(f"{text}targets: {{area: {{kind: thickness, range: 0..6, level: image}}}}\nscores: {{}}\n")
    run, predicted = str(tmp_path / "run"), tmp_path / "predicted.csv"
    for words in (["run", str(study), "--output", run], ["predict", run, str(phantom), "--output", str(predicted)]):
        done = call(SOURCE, *words, python=python)
        assert done.returncode == 0, done.stderr
    assert predicted.is_file()
    without = call(SOURCE, "predict", run, str(phantom), "--output", str(predicted))
    assert without.returncode == 2
    assert "'thickness'" in without.stderr
    assert "damaged" not in without.stderr.partition("if ")[0]


@pytest.mark.slow
def test_the_package_of_the_how_to_works(chests: Path, tmp_path: Path) -> None:
    page = (SOURCE.parent / "docs" / "howto-extend.md").read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (casewise_tiny/\w+\.py)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    facts = tmp_path / "casewise_tiny-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(WHEEL["METADATA"].replace("oct", "tiny"))
    (facts / "entry_points.txt").write_text(WHEEL["entry_points.txt"].replace("oct", "tiny"))
    study, run, predicted = tmp_path / "study.yaml", tmp_path / "run", tmp_path / "predicted.csv"
    text = STUDY.replace("extends: onestep-pasi\n", "").replace("[test_resnet]", "[]")
    study.write_text(text.format(cohort=chests) + "targets: {label: {classes: [no_finding, pneumonia, covid]}}\n")
    both = Path(os.pathsep.join(map(str, (SOURCE, tmp_path))))
    done = call(both, "validate", str(study))
    assert "1 learner × 2 folds = 2 networks" in " ".join(done.stdout.split()), done.stderr
    words = ["predict", str(run), str(chests), "--output", str(predicted)]
    for command in (["run", str(study), "--output", str(run)], words):
        done = call(both, *command)
        assert done.returncode == 0, done.stderr
    report = (run / "report.html").read_text()
    assert all(text in report for text in ("small network", "Lowest recall", "Cases by learner", "2 networks, "))
    assert set(pd.read_csv(predicted)["learner"]) == {"tiny"}
    predicted.unlink()
    without = call(SOURCE, *words)
    assert without.returncode == 2
    assert "casewise has no learner named tiny" in " ".join(without.stderr.split())
