"""The study: what to predict from which images, and how to split, train, combine and evaluate. Nothing is read here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, model_validator

from casewise.errors import cut
from casewise.plugin import modality_sections, plugins, register_additions
from casewise.study.checks import check_study
from casewise.study.evaluation import Audit, Evaluation
from casewise.study.images import Images, ModalitySettings, Panels
from casewise.study.learners import encoders_of, learner_named, learners_beside
from casewise.study.model import Level, RowFilter, StudyModel, read_duration, with_keys_of_plugins
from casewise.study.other_cohorts import Apart, External, Pretraining, SubjectNames
from casewise.study.recipe import Baselines, Compute, Recipe
from casewise.study.split import NestedCV, Split
from casewise.study.targets import ScoreFormula, Target
from casewise.study.yaml_text import Values
from casewise.targets import kind_named

Stacker = Literal["linear", "linear+intercept", "ridge", "ridge+intercept", "logistic", "mean", "weighted"]
# What a study with a planned recipe has besides, where it does not state it.
_AUTO: Mapping[str, object] = {"stack": ["weighted"], "stack_baselines": True}
# What pydantic reads as false.
_NO = ("false", "no", "off", "n", "f", "0")
_AUTO_BACKBONE = {False: "mobilenet_v2", True: "cnn"}
# Marks of the settings that decide networks, which must then not change in a run folder, and of those that a bundle
# holds, which determine how new cases are read, prepared and predicted.
NETWORKS, BUNDLE = "decides networks", "in the bundle"


def _stopped_on_validation(values: Values) -> Values:
    """The values of a study with a validation set, which stops the training unless the recipe states otherwise."""
    split, recipe = values.get("split"), values.get("recipe", {})
    if not isinstance(recipe, dict) or recipe.get("auto"):
        return values
    stop = recipe.get("early_stopping", {})
    validation = split.get("validation") if isinstance(split, dict) else getattr(split, "validation", None)
    if validation is None or values.get("nested_cv") or not isinstance(stop, dict):
        return values
    return {**values, "recipe": {**recipe, "early_stopping": {"monitor": "fold", **stop}}}


class Study(StudyModel):
    """A whole study, as its file states it. Paths are absolute after `casewise.study.loading.read_study`."""

    format: Literal[1] = 1
    """The format of the file. Every version 1 of casewise reads it."""
    name: Annotated[str, Field(pattern=r"^[^/\\\\]*[^/\\\\.][^/\\\\]*$")]
    """Name of the study and of its run folder, `runs/NAME`."""
    title: str = ""
    """Heading of the report."""
    description: str = ""
    """One sentence on what is predicted. The report shows it, and spells names as it does (`PASI`)."""
    synthetic: bool = False
    """`true`: the images do not show patients, and the report states this."""
    cohort: Path
    """The cohort table, CSV, .xlsx or Parquet: [columns and rules](reference-cohort.md). Relative to the study file."""
    sheet: str = ""
    """The sheet of an .xlsx workbook. Default: its first visible sheet."""
    root: Path | None = None
    """Folder to which the paths in the table are relative. Default: the table's own folder."""
    columns: Annotated[dict[str, str], BUNDLE] = {}
    """The table's column for a standard name or a target, such as `{visit: visit_no}`. `""` leaves it unused."""
    original_columns: Annotated[dict[str, str], BUNDLE] = {}
    """The columns of the table from which `casewise init` made the cohort, by standard names, such as `{subject:
    PatNr}`. Tables of new cases may have either."""
    where: RowFilter = {}
    """Rows to keep: a column and the value, or list of values, that it must have, as text; `""` for empty cells."""
    where_not: RowFilter = {}
    """Rows to leave out: a column and the value, or list of values, such as `{path: [images/a.jpg]}`."""
    sample: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Numbers of rows to keep of a class, such as `{no_finding: 704}`, drawn by `seed` before the split; other classes
    stay whole. Rows are images, so it needs `panels: {by: image}`."""
    subjects_known: Annotated[bool, BUNDLE] = True
    """`false` if it is unknown which images belong to one person. Every image then needs its own subject name."""
    subjects_guessed: Annotated[bool, BUNDLE] = False
    """With `subjects_known: false`: subjects are those that `casewise init --subject guess` guessed."""
    subject_names: SubjectNames = "refuse_similar"
    """Whether names of subjects that differ in spelling only (`S1` and `s-01`) are refused. `as_written`: they are
    different people, unless they differ in case, spaces or invisible characters only. Lists state which are different
    people: `[["1", "01"], [S1, S-1]]`, also if they look like rounded numbers: `[["1.5E3", "1.6E3"]]`."""
    modality: Annotated[str, BUNDLE] = ""
    """Kind of images: `photographs`, `slides`, `volumes`, or a registered modality, whose settings are a section with
    its name. Default: `volumes` if the study has that section, `slides` if it has `tiles`, else `photographs`."""
    images: Annotated[Images, BUNDLE] = Images()
    """How each image becomes a tile."""
    regions: Annotated[list[str], BUNDLE] = []
    """The regions that the column `region` may contain, in order. Empty: the study has no regions."""
    missing_regions: Annotated[Literal["refuse", "allow"], NETWORKS, BUNDLE] = "refuse"
    """Whether a case may lack a region; it is then predicted, as the mean of the others, but not evaluated."""
    panels: Annotated[Panels, NETWORKS, BUNDLE] = Panels()
    """Which images a network sees at once, and how they are augmented in training."""
    targets: Annotated[dict[str, Target], NETWORKS, BUNDLE] = Field(min_length=1)
    """What was recorded: a name and a range (`erythema: 0..4`), a list of classes (`label: [covid, no_finding]`), or
    settings. At least one."""
    scores: Annotated[dict[str, ScoreFormula], BUNDLE] = {}
    """Formulas over targets, or a name from [Scores](reference-study-targets.md#scores-that-come-with-casewise)."""
    outputs: Annotated[list[str], NETWORKS, BUNDLE] = []
    """What the networks predict directly: targets, or scores at the level of a panel. Default: every target."""
    primary_outcome: Annotated[str, BUNDLE] = ""
    """The target or score that the report is about. Default: the last score, else the first output."""
    split: Split = Split()
    """How subjects are divided into training folds and a test set."""
    audit: Audit = Audit()
    """What the audit examines before training: [Audit a cohort](howto-audit.md)."""
    accept: dict[str, str] = {}
    """Findings of the audit that are accepted, with the reason: `{shortcut-source: two hospitals}`."""
    backbones: list[str] = []
    """Networks to train (`casewise backbones`). `all29` stands for the 29 of One-Step PASI; any timm name is allowed,
    with the prefix `timm:` if torchvision has the same name, and after a dot the weights:
    `vit_base_patch16_224.orig_in21k`, or a repository of timm's hub: `hf-hub:owner/name`. With `volumes`,
    `BACKBONE@FUSION` is trained with that fusion only, others with every one of `volumes.fusion`."""
    weights: Annotated[str | dict[str, str], NETWORKS] = "pretrained"
    """Initial weights: `pretrained`, `random`, a file, a folder of `<backbone>.safetensors`, or `bundle:PATH` for a
    network that casewise trained; or by backbone: `{resnet18: random}`. See [First
    weights](howto-extend.md#first-weights)."""
    bundle_subjects: Apart = "named_apart"
    """The same as `external.subjects`, for subjects that a network of `weights: bundle:PATH` was trained on."""
    weights_dir: Path | None = None
    """Folder of `<backbone>.safetensors` for `pretrained` weights, the same as `--weights-dir`."""
    baselines: Baselines = Baselines()
    """[Simple models](explanation-baselines.md) on pixels and on frozen features, evaluated with the networks. `auto`
    (default): they are fitted; `{off: the reason}`: they are not, and the report says why."""
    covariates: list[str] = []
    """Columns with facts of each case, such as `[age, sex]`. The report shows [what images add to
    them](explanation-baselines.md#covariates)."""
    encoders: list[str] = []
    """The pretrained networks whose frozen features the baselines use, of torchvision, timm or a hub
    (`hf-hub:owner/name`): [Encoders](explanation-baselines.md#encoders). Default: MobileNetV2 if the study has it or no
    network, else its first pretrained backbone."""
    pretrain: Annotated[Pretraining | None, NETWORKS] = None
    """Another cohort to train on first."""
    recipe: Annotated[Recipe, NETWORKS] = Recipe()
    """How a network is trained."""
    budget: Annotated[float, BeforeValidator(read_duration), Field(ge=60)] = 1800.0
    """The time that a run with a planned recipe may take, such as `30min` or `2h`; in seconds if it is a number."""
    nested_cv: Annotated[NestedCV | None, NETWORKS] = None
    """[Nested cross-validation](explanation-nested.md). Default: none."""
    test_time_augmentation: Annotated[bool, NETWORKS, BUNDLE] = False
    """Average each prediction with the prediction for the mirrored panel."""
    stack: list[Stacker] = []
    """Meta learners that combine the networks, fitted on out-of-fold predictions. `mean` and `weighted` (weights of at
    least 0 that sum to 1, equal unless others are clearly better) are for all targets. `linear` and `ridge`, for
    numbers, and `logistic`, for classes and grades, have weights of either sign and need a test set."""
    final: Literal["folds", "refit"] = "folds"
    """What predicts new cases. `folds`: the mean of the networks of all folds. `refit`: one network for each learner,
    [trained on all subjects outside the test set](howto-predict.md#take-the-model-along)."""
    stack_baselines: bool = False
    """Whether the meta learners combine the baselines as well as the networks."""
    external: External | None = None
    """Another cohort on which the trained networks are tested: [Test on other patients](howto-external.md)."""
    evaluation: Evaluation = Evaluation()
    """How predictions are evaluated."""
    compute: Compute = Compute()
    """Settings of the machine. A run can be continued after a change of these settings."""
    seed: Annotated[int, NETWORKS] = Field(0, ge=0)
    """Seed of the split, the initial weights of heads, the order of batches and all augmentation."""
    seeds: int = Field(1, ge=1, le=100)
    """How often the study is trained, with `seed` and those after it, by which folds are drawn too; the report shows
    how much results vary."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, values: Any) -> Any:
        recipe = values.get("recipe", {})
        if isinstance(recipe, Recipe):
            recipe = {name: getattr(recipe, name) for name in recipe.model_fields_set}
        recipe = {"auto": True} if recipe == "auto" else recipe
        if isinstance(recipe, dict) and str(recipe.get("auto")).strip().lower() in _NO:
            recipe = {**recipe, "auto": False}
            values = {**values, "recipe": recipe}
        if isinstance(recipe, dict) and "backbones" not in values:
            recipe = {"auto": True, **recipe}
            if not recipe["auto"]:
                raise ValueError("backbones: without a planned recipe, state the networks to train; [] for none")
        if isinstance(recipe, dict) and recipe.get("auto"):
            split = values.get("split")
            # weights that are fitted across sources say nothing about a new one
            unfitted = isinstance(split, dict) and (split.get("leave_out") or split.get("validation"))
            across = {"stack": ["mean"]} if unfitted else {}
            of_plugins = {key: value for plugin in plugins() for key, value in plugin.planned_defaults(values).items()}
            values = {**_AUTO, **across, **of_plugins, **values, "recipe": recipe}
            values["backbones"] = values.get("backbones", [_AUTO_BACKBONE[values.get("weights") == "random"]])
        values = _stopped_on_validation(values)
        targets, scores = values.get("targets"), values.get("scores")
        outputs = values.get("outputs") or (list(targets) if isinstance(targets, dict) else None)
        if not isinstance(outputs, (list, tuple)) or not outputs:
            return values
        default = list(scores)[-1] if isinstance(scores, dict) and scores else outputs[0]
        return {**values, "outputs": outputs, "primary_outcome": values.get("primary_outcome") or default}

    @model_validator(mode="after")
    def _check_consistency(self) -> Study:
        check_study(self)
        return self

    def __reduce__(self) -> Any:
        """Pickle a study whose modality adds a section by its values, since its class has no name to import."""
        if type(self) is Study:
            return super().__reduce__()
        return _rebuilt, (self.modality, self.model_dump())

    def __repr__(self) -> str:
        return f"Study({self.name!r}): {', '.join(self.targets)} of {self.cohort}, by {', '.join(self.learners)}"

    def key(self, name: str) -> Any:
        """The value of a key that a plugin adds to study files; None without the plugin."""
        return getattr(self, name, None)

    @property
    def _sections(self) -> dict[str, ModalitySettings]:
        """The sections of modalities that the study states, by the name of the modality."""
        stated = {name: getattr(self, section) for name, section in modality_sections().items()}
        return {name: section for name, section in stated.items() if section is not None}

    @property
    def folders_allowed(self) -> bool:
        """Whether a path of the table may be a folder, as of a DICOM series."""
        return any(section.folders_allowed for section in self._sections.values())

    @property
    def landmarks_of_subjects(self) -> bool:
        """Whether the intensities of an image are standardised by all images of its subject."""
        return any(section.landmarks_of_subjects(self) for section in self._sections.values())

    @property
    def modality_name(self) -> str:
        """Which modality the images have."""
        return self.modality or next(iter(self._sections), "photographs")

    @property
    def modality_settings(self) -> Any:
        """The section of the study file with the settings of its modality; None without one."""
        return getattr(self, modality_sections().get(self.modality_name, self.modality_name), None)

    @property
    def unit(self) -> str:
        """What counts as one person: a subject or, if subjects are not known, a guessed one or an image."""
        return "subject" if self.subjects_known else "guessed subject" if self.subjects_guessed else "image"

    @property
    def not_known(self) -> str:
        """A clause on subjects that are not known."""
        how = "only guessed, from similar pictures with neighbouring file numbers,"
        return f"It is {how if self.subjects_guessed else 'not known'} which images belong to the same person"

    @property
    def networks(self) -> list[str]:
        """The networks trained on every fold; the name before an `@` is the backbone."""
        settings = self._sections.get(self.modality_name)
        return settings.networks(self.backbones) if settings else list(self.backbones)

    @property
    def learners(self) -> list[str]:
        """The baselines, then the networks: everything that is fitted on every fold."""
        return [*learners_beside(self), *self.networks]

    @property
    def trained(self) -> list[str]:
        """The learners that are trained by gradient steps: the networks, and such learners of plugins."""
        return [name for name in self.learners if learner_named(name).by_steps]

    def of_learner(self, name: str) -> Study:
        """The study as a learner sees it."""
        return learner_named(name).view(self)

    def without(self, networks: Collection[str]) -> Study | None:
        """The study without some of its networks, whose other learners are the same; None if there is none.

        There is none without any learner, and where the name of a network depends on one that is left out.
        """
        kept = [name for name in self.networks if name not in networks]
        # by default the encoder depends on the backbones
        of_baselines = any(learner_named(name).encoders(self) for name in learners_beside(self))
        encoders = encoders_of(self) if of_baselines else []
        weights = self.weights
        if isinstance(weights, dict):
            backbones = {name.partition("@")[0] for name in kept}
            weights = {name: value for name, value in weights.items() if name in backbones}
        reduced = self.model_copy(update={"backbones": kept, "encoders": encoders, "weights": weights})
        same = reduced.learners == [name for name in self.learners if name not in networks]
        return reduced if same and reduced.learners else None

    @property
    def fusions(self) -> list[str]:
        """The ways of combining sequences; empty for a modality without sequences."""
        return list(getattr(self.modality_settings, "fusion", []))

    def weights_of(self, network: str) -> str:
        """The initial weights of a network: the study's, or the weights stated for its backbone."""
        return learner_named(network).weights(self)

    @property
    def rates(self) -> list[float]:
        """The learning rates that inner folds choose among: the rates in `nested_cv`, else the recipe's rate."""
        if self.nested_cv and self.nested_cv.lr:
            return list(self.nested_cv.lr)
        return [self.recipe.lr] if isinstance(self.recipe.lr, float) else []

    @property
    def network_noun(self) -> str:
        """What one of `trained` is called."""
        if self.trained != self.networks:
            return "learner"
        return "backbone" if self.networks == self.backbones else "pairing"

    def fusion_of(self, network: str) -> str | None:
        """How a network combines the sequences: a fusion, or a single sequence; None without volumes."""
        return learner_named(network).fusion(self)

    @property
    def target_level(self) -> Level:
        """The level of a target that states none: the panel's level; with tiles, the case."""
        levels = (section.target_level(self) for section in self._sections.values())
        return next((level for level in levels if level), self.panels.by)

    @property
    def external_name(self) -> str:
        """The name of the external cohort: as stated, else its folder's name; empty where there is none."""
        stated = self.external
        return (stated.name or stated.cohort.parent.name or "external") if stated else ""

    def parts_of(self, outcome: str) -> list[str]:
        """The targets that an outcome is made of: itself, or a score's targets, also through earlier scores."""
        if outcome not in self.scores:
            return [outcome] if outcome in self.targets else []
        words = re.findall(r"\w+", self.scores[outcome].formula)
        targets = {target for name in words if name != outcome for target in self.parts_of(name)}
        return [name for name in self.targets if name in targets]

    def classes_of(self, name: str) -> list[str]:
        """The classes of a target in their order; empty for numbers and scores."""
        return list(self.targets[name].classes) if name in self.targets else []

    def kind_of(self, name: str) -> str:
        """The name of the kind of a target; a score is a number."""
        return self.targets[name].kind if name in self.targets else "regression"

    @property
    def decisions(self) -> dict[str, str]:
        """The rule by which each predicted grade is decided; empty without grades.

        With a planned recipe the rounded mean, which has the smallest expected squared distance: the quadratically
        weighted kappa counts these distances.
        """
        rules = {name: kind_named(self.kind_of(name)).decisions for name in self.outputs}
        planned = {"mean"} if self.recipe.auto else set()
        usual = {name: next(iter(planned & set(names)), names[0]) for name, names in rules.items() if names}
        return {name: self.targets[name].decision or rule for name, rule in usual.items()}

    def positive_of(self, name: str) -> str | None:
        """The class that sensitivity refers to, for a target with two classes: as stated, else the first."""
        classes = self.classes_of(name)
        return (self.targets[name].positive or classes[0]) if len(classes) == 2 else None

    def range_of(self, name: str) -> tuple[float, float]:
        """The declared range of a target or score."""
        return self.targets[name].range if name in self.targets else self.scores[name].range

    def level_of(self, name: str) -> Level:
        """The level of a target or score."""
        return self.scores[name].level if name in self.scores else (self.targets[name].level or self.target_level)


if not TYPE_CHECKING:  # type checkers see the keys of the core
    Study = with_keys_of_plugins(Study)

_SETTINGS: dict[str, type[StudyModel]] = {}


def register_settings(modality: str, settings: type[StudyModel]) -> None:
    """Let studies of a modality have a section of its name, validated by `settings`.

    Raises:
        ValueError: the name is a key of every study file.
    """
    if modality in Study.model_fields:
        raise ValueError(f"{cut(modality)} is a key of every study file; name the modality otherwise.")
    _SETTINGS[modality] = settings
    study_model.cache_clear()


def settings_marked(study: Study, mark: str) -> list[str]:
    """The names of the settings with a mark: `NETWORKS` or `BUNDLE`."""
    return [name for name, field in type(study).model_fields.items() if mark in field.metadata]


@lru_cache
def study_model(modality: str = "") -> type[Study]:
    """The class of studies of a modality: `Study`, or with the section that the modality registered."""
    register_additions()
    settings = _SETTINGS.get(modality)
    if settings is None:
        return Study
    field: Any = (settings, Field(default_factory=settings, description=f"Settings of the modality {modality}."))
    model: type[Study] = create_model("Study", __base__=Study, __module__=__name__, **{modality: field})
    return model


def _rebuilt(modality: str, values: Values) -> Study:
    return study_model(modality).model_validate(values)
