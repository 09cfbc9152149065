import json
import pickle
from pathlib import Path

import pytest
from pydantic import Field

from casewise.errors import StudyError
from casewise.study.loading import checked_study, read_study, saved_study
from casewise.study.schema import StudyModel, register_settings

GOOD = "extends: onestep-pasi\ncohort: visits.csv\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_the_published_protocol_is_the_preset(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, GOOD))
    r, s = study.recipe, study.split
    assert (r.loss, r.optimizer, r.momentum, r.lr, r.batch_size) == ("mse", "sgd", 0.9, 0.01, 16)
    assert r.early_stopping.patience == 50
    assert (r.plateau.factor, r.plateau.patience, r.plateau.threshold) == (0.1, 10, 1e-4)
    assert (s.test, s.folds, s.stratify_by, s.restarts) == (0.1, 5, "scaling", 1000)
    assert (len(study.backbones) * study.split.folds, len(study.stack)) == (145, 4)
    assert (study.images.size, study.panels.grid, study.panels.rotate) == (128, "2x2", 180)
    assert (study.cohort, study.primary_outcome) == ((tmp_path / "visits.csv").resolve(), "pasi")


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    for name, said in (("t.csv", "casewise init --table"), ("f.JPG", "is an image")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(StudyError, match=said):
            read_study(tmp_path / name)
    with pytest.raises(StudyError, match=r"Did you mean .*study\.yaml"):
        read_study(tmp_path)


def test_an_error_says_whether_the_value_was_given_beside_the_file(tmp_path: Path) -> None:
    for text, settings, beside in (("", ["seed=many"], True), ("seed: many\n", [], False)):
        with pytest.raises(StudyError, match="seed: ") as caught:
            read_study(written(tmp_path, GOOD + text), settings=settings)
        assert ("beside the file" in str(caught.value)) is beside


def test_single_settings_replace_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "cohort: a.csv\ntargets: {x: 0..4, y: 0..2}\nbackbones: [cnn]\nrecipe: auto\n")
    study = read_study(path, settings=["recipe.epochs=20", "targets.x=0..3", "backbones=alexnet, cnn"])
    assert study.recipe.stated == {"epochs": 20}
    assert study.recipe.auto
    assert study.backbones == ["alexnet", "cnn"]
    assert {name: target.range for name, target in study.targets.items()} == {"x": (0, 3), "y": (0, 2)}
    with pytest.raises(StudyError, match=r"recipe\.epochs: must be a whole number, found 'many'"):
        read_study(path, settings=["recipe.epochs=many"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("compute: {frozen_once: false}", r"compute\.frozen_once: this setting of casewise 1\.0 is gone: .*Remove the"),
        ("recipe: {finder: {low: 0.1}}", r"recipe\.finder\.low: this setting of casewise 1\.0 is gone: .*Remove the"),
        ("recipe: {lrr: 1}", r"recipe\.lrr: there is no such setting\. Did you mean 'lr'\?"),
        ("title: Studie: Köln", 'line 3: .*quotes: title: "Studie: Köln"'),
        ("recipe: {phases: [{epochs: 1}, {freeze: all}]}", r"recipe\.phases, phase 2: epochs: is missing\.$"),
        ("recipe: {epochs: zwanzig}", r"recipe\.epochs: must be a whole number, found 'zwanzig'"),
        ("seed: false", r"seed: must be a number, and not true or false, found False"),
        ("seed: !!null garbage", "is a tag, and settings have none"),
        ("split: {by: visit}", "puts images of one subject on both sides"),
        ("targets: {a: 0-4}", "a range is written as two numbers"),
        ("compute: {threads: 1:30}", r"compute\.threads: must be a whole number or 'auto', found '1:30'"),
        ("seed: !!int 7", r"line \d+: not valid YAML: .*:int' is a tag"),
        ("split: {seed: 1}", "Did you mean seed, at the top of the study"),
        ("backbones: resnet35", "no backbone 'resnet35'. Did you mean 'resnet34'"),
        ("split: {test: 150%}", r"split\.test: must be at least 0% and below 100%, found '150%'"),
        ("outputs: [erytema]", "Did you mean 'erythema'"),
        ("evaluation: {references: {pasi: {someone: {MAE: 1}}}}", "the metric .MAE. is none of"),
        ("targets: {a: {range: [0, .inf]}}", "finite"),
        ("seed: 1\nseed: 2", "the key 'seed' is repeated"),
        ("recipe: {lr: 0,0003}", "0.0003"),
        ("name: ../../up", "name: string should match pattern"),
        ("extends: onestep-psai", "Did you mean 'onestep-pasi'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    base = "cohort: visits.csv\n" if text.startswith("extends") else GOOD
    with pytest.raises(StudyError, match=said):
        read_study(written(tmp_path, base + text))


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    with pytest.raises(StudyError, match=r"no study file .*studdy\.yaml\. Did you mean 'study\.yaml'"):
        read_study(tmp_path / "studdy.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(StudyError, match="not UTF-8"):
        read_study(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(StudyError, match="found list"):
        read_study(tmp_path / "list.yaml")


def test_a_study_may_extend_another_file_but_not_itself(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    (tmp_path / "two.yaml").write_text("extends: study.yaml\nseed: 3\n")
    assert read_study(tmp_path / "two.yaml").seed == 3
    (tmp_path / "loop.yaml").write_text("extends: loop.yaml\n")
    with pytest.raises(StudyError, match="extends this file again"):
        read_study(tmp_path / "loop.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: {lr: -0.001}", r"recipe\.lr: must be above 0 or 'find', found -0\.001\.$"),
        ("external: other.csv", r"external: needs settings \(cohort, .*found 'other\.csv'"),
        ("targets: {grade: [a, b]}", r"'label' is not a target\. The key comes from `extends: covid-cxr`"),
    ],
)
def test_mistakes_are_told_in_the_files_own_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StudyError, match=said) as told:
        read_study(written(tmp_path, f"extends: covid-cxr\ncohort: films.csv\n{text}\n"))
    assert not any(word in str(told.value) for word in ("constrained", "literal[", "instance of", "dictionary"))
    assert len(str(told.value).splitlines()) == 2


@pytest.mark.plugins("slides", "volumes")
@pytest.mark.parametrize(
    "section",
    [
        "modality: slides\n",
        "modality: volumes\n",
        "modality: photographs\ntiles: {mpp: 4.0}\n",
        "modality: photographs\nvolumes: {sequences: [T1]}\n",
    ],
)
def test_a_modality_needs_its_own_section_and_no_other(tmp_path: Path, section: str) -> None:
    with pytest.raises(StudyError, match="modality"):
        read_study(written(tmp_path, GOOD + section))


def test_a_modality_of_a_test_brings_its_own_section(tmp_path: Path) -> None:
    class Settings(StudyModel):
        window: int = Field(64, ge=8, description="Samples in a window.")

    register_settings("echoes", Settings)
    text = GOOD + "modality: echoes\nechoes: {window: 32}\n"
    study = read_study(written(tmp_path, text))
    assert study.modality_settings == Settings(window=32)
    assert pickle.loads(pickle.dumps(study)) == study
    assert saved_study(json.loads(study.model_dump_json())) == study
    assert read_study(written(tmp_path, GOOD + "modality: echoes\n")).modality_settings == Settings(window=64)
    with pytest.raises(StudyError, match=r"echoes\.windw: there is no such setting. Did you mean 'window'"):
        read_study(written(tmp_path, text.replace("window", "windw")))
    with pytest.raises(StudyError, match=r"echoes: there is no such setting"):
        read_study(written(tmp_path, GOOD + "echoes: {window: 32}\n"))


def test_changes_are_merged_like_a_file_that_extends(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + "recipe: {epochs: 7, lr: 0.5}\n")
    recipe = read_study(file, recipe={"lr": 0.25}).recipe
    assert (recipe.epochs, recipe.lr) == (7, 0.25)
    with pytest.raises(StudyError, match="sede") as refused:
        read_study(file, sede=1)
    assert "preset" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "field"), [({"epochs": 3}, "epochs"), ({"seed": -1}, "seed"), ({"backbones": ["resnet99"]}, "resnet99")]
)
def test_a_study_changed_in_code_is_checked(tiny: Path, tmp_path: Path, change: dict[str, object], field: str) -> None:
    from casewise.run import run

    with pytest.raises(StudyError, match=field):
        run(read_study(tiny).model_copy(update=change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_study_that_nothing_changed_stays_as_it_is(tiny: Path) -> None:
    assert checked_study(read_study(tiny)) == read_study(tiny)
