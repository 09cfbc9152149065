"""Folders of images, read as subjects, visits, regions or classes where their names are unambiguous."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from casewise.cohort.clinical_words import STRONG_SUBJECT, VISIT, named_region, unaccented
from casewise.cohort.companions import Companion, companions
from casewise.cohort.identity import alike
from casewise.cohort.table import natural
from casewise.errors import CasewiseError, counted, cut, nearest, nearest_folder
from casewise.names import as_codes, heading_words, one_form

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".heic", ".heif")
SLIDES = (".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
ENDINGS = (*IMAGES, *DICOM_SUFFIXES, *SLIDES)
VOLUME_FILES = (".nii.gz", ".nii")
# The names in patterns of paths; other names become columns.
FIELDS = ("label", "subject", "visit", "date", "region", "sequence", "split", "view", "n", "file")
# Fields that number or name the file of a case.
OF_FILES = ("n", "number", "no", "nr", "file")
# How similar a name must be to one of `FIELDS` to be taken for a misspelling.
_MISSPELT = 0.75
# Other names of the field {subject}.
_PEOPLE = rf"(({STRONG_SUBJECT}) ?(id|code|nr|no|number|name|key)?)"
VISIT_WORDS = (
    r"v|visit|week|w|wk|month|m|day|d|t|tp|time|timepoint|session|ses|baseline|bl|followup|follow|fu|screening|"
    r"pre|post|before|after|visite|woche|monat|tag|semaine|semana|mois|mes|jour|dia|visita"
)
DATE_FORM = r"(18|19|20)\d\d-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])"
# Of a folder; `D001` and `M2` are rather subjects.
_VISIT_NAME = rf"(?![dm][-_ ]?\d*$)({VISIT_WORDS})[-_ ]?\d*|{DATE_FORM}"
# Folders that a system or a storage device adds; Synology's has a thumbnail of each image.
OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")
# Groups of files that mark a folder as a run of casewise or its explanations.
_OF_CASEWISE = (
    ("study.json", "cohort.parquet"),
    ("study.json", "audit.json"),
    (".explanations",),
    ("explanations.parquet",),
)
# A word for a batch of files, a place or a device with its number or letter; after places no further number, because
# `site1-007` may be a person.
_FILES_WORDS = (
    r"batch|part|set|dataset|subset|fold|folder|split|chunk|shard|lot|export|import|upload|download|delivery|dump|backup|"
    r"archive|disk|disc|dvd|cd|card|box|tray|plate|page|run|round|series|wave|teil|ordner|lieferung|lote|dossier"
)
_PLACES = (
    r"group|cohort|station|camera|cam|device|scanner|machine|unit|room|ward|lab|site|cent(?:er|re)|clinic|hospital|"
    r"department|reader|gruppe|kamera|raum|klinik|zentrum|krankenhaus"
)
# Hospitals, which have names of their own.
_HOSPITALS = r"clinic|hospital|klinik|klinikum|krankenhaus|praxis|spital|hopital|ospedale|medical cent(?:er|re)"
_NUMBERED = r"s?(?: ?[0-9]+| (?:[a-z]|[ivx]+))"
# Folders that say what files are, and days, written apart.
_CONTAINERS = (
    r"(?:new |my |all |raw |the )?(?:images?|imgs?|photos?|photographs?|pictures?|films?|scans?|x ?rays?|radiographs?|"
    r"dicoms?|dcm|data|files?|cases?|inputs?|downloads?|uploads?|exports?|inbox|jpe?gs?|pngs?|tiffs?|new|todo|pacs|"
    r"bilder|aufnahmen|fotos)"
)
_DAY = r"(?:19|20)[0-9]{2} [0-9]{1,2} [0-9]{1,2}|[0-9]{1,2} [0-9]{1,2} (?:19|20)[0-9]{2}"
_BATCH = (
    rf"(?:new )?(?:{_FILES_WORDS}){_NUMBERED}(?: .*)?|(?:{_PLACES}){_NUMBERED}(?: [^0-9]*)?|"
    rf"(?:{_HOSPITALS})(?: .*)?|.* (?:{_HOSPITALS})|"
    rf"[0-9]{{3}} ?(?:canon|apple|nikon|olymp|media|pana|msdcf)|{_CONTAINERS}|{_DAY}"
)
_YEAR, _MOST_YEARS = r"(?:19|20)\d\d(?:[-_ ]?(?:0[1-9]|1[0-2]|[qQ][1-4]))?", 12
_WRAPPERS = ("images", "image", "imgs", "img", "photos", "photographs", "pictures", "data")
_SIDES = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}
GRADE = re.compile(r"(grade|class|stage|score|level|label|severity|type|category|grad|stadium)[\W_]*\d+", re.IGNORECASE)
_MANY_CLASSES = 20


@dataclass(frozen=True)
class FolderImage:
    """An image with the facts that its path states; '' if it does not state one."""

    path: str
    subject: str
    visit: str = ""
    region: str = ""
    label: str = ""
    side: str = ""


@dataclass(frozen=True)
class Layout:
    """The images below a folder in order, the meaning of the folders, and the files that are not images.

    `companions` are masks and other files that belong to an image, and are left out as well.
    """

    shape: str
    images: list[FolderImage]
    skipped: list[str]
    put_with_train: str = ""
    companions: list[Companion] = field(default_factory=list)

    @property
    def by_class(self) -> bool:
        return self.shape.startswith("class")


def read_layout(source: Path, *, regions: list[str], classes: list[str] | None) -> Layout:
    """Read the images below `source` in one of the supported layouts.

    Args:
        regions: the regions of the study, searched in names of folders and files; may be empty.
        classes: names of classes; None where folders are never classes, as of new cases.

    Raises:
        CasewiseError: the folder is missing, has no images, or has another layout.
    """
    paths, skipped, belonging = _image_files(source)
    if not paths:
        names = f" It contains {counted(len(skipped), 'other file')}, such as {skipped[0]}." if skipped else ""
        raise CasewiseError(f"{source} contains no images ({', '.join(ENDINGS)}).{names}")

    def refuse(why: str, *examples: str) -> CasewiseError:
        shown = list(dict.fromkeys([*examples, paths[0], paths[-1]]))[:2]
        naming = f", with the region in each file name ({', '.join(regions)})" if regions else ""
        return CasewiseError(
            f"{source}: the layout is not supported: {why}.\n  Examples: {' and '.join(shown)}\n  Allowed are\n    "
            f"subject/visit/region/*.jpg\n    subject/visit/*.jpg{naming}\n    subject/*.jpg{naming}, one visit for "
            "each subject\n    class/*.jpg, where subjects are not known\n  and each of them below train/ and test/. "
            "Or write cohort.csv yourself, with one row for each image."
        )

    split = [tuple(one_form(path).split("/")) for path in paths]
    start = 1 if len({p[0] for p in split}) == 1 and len(split[0]) > 1 and split[0][0].casefold() in _WRAPPERS else 0
    tops = {p[start].casefold() for p in split if len(p) > start + 1}
    sides = [""] * len(split)
    if tops & set(_SIDES):
        if tops - set(_SIDES) or any(len(p) <= start + 1 for p in split):
            odd = next(p for p in split if len(p) <= start + 1 or p[start].casefold() not in _SIDES)
            raise refuse("train or test is next to other folders or files", "/".join(odd))
        sides = [_SIDES[p[start].casefold()] for p in split]
        start += 1
    depths = Counter(len(p) - start - 1 for p in split)
    if len(depths) > 1:
        (usual, _), *_, (rare, _) = depths.most_common()
        examples = ["/".join(next(p for p in split if len(p) - start - 1 == depth)) for depth in (usual, rare)]
        raise refuse("images are at different depths", *examples)
    tails = [p[start:] for p in split]
    shape, images = _shape(tails, regions, classes, refuse), []
    for path, tail, side in zip(paths, tails, sides, strict=True):
        by_class, in_folder, stem = shape.startswith("class"), "region" in shape, stem_of(tail[-1])
        name = tail[-2] if in_folder else stem
        region = find_region(name, regions) if regions else name * in_folder
        if regions and not region:
            where = "the name of its folder" if in_folder else "its file name"
            raise refuse(f"the region ({', '.join(regions)}) of {path} does not follow from {where}", path)
        subject, label = (stem, tail[0]) if by_class else (tail[0], "")
        images.append(FolderImage(path, subject, tail[1] if "visit" in shape else "", region, label, side))
    if shape.startswith("class"):
        images = _own_subjects(images)
    with_train = next((p[start - 1] for p in split if start and p[start - 1].casefold().startswith("val")), "")
    rank = {region: position for position, region in enumerate(regions)}
    images.sort(key=lambda i: (i.side, natural(i.subject), natural(i.visit), rank.get(i.region, 0), natural(i.path)))
    return Layout(shape, images, skipped, with_train, belonging)


def _image_files(source: Path) -> tuple[list[str], list[str], list[Companion]]:
    """Paths below `source`, with `/`, of images and of other files; and the companions of images."""
    images: list[str] = []
    others: list[str] = []
    for _, paths, hidden in walk(source):
        for path in paths:
            is_image = path.casefold().endswith(ENDINGS) or begins_as_image(source / path)
            (images if is_image else others).append(path)
        others += hidden
    belonging, _ = companions(source, images)
    images = [path for path in images if path not in belonging]
    return sorted(images, key=natural), sorted(others), list(belonging.values())


def begins_as_image(path: Path) -> bool:
    """Whether a file without an ending, or with a number as its ending, begins as a DICOM, JPEG or PNG file.

    A DICOMDIR is not an image.
    """
    if not (path.suffix[1:].isdigit() or not path.suffix) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    is_dicom = head[128:] == b"DICM" and path.name.upper() != "DICOMDIR"
    return is_dicom or head.startswith((b"\xff\xd8\xff", b"\x89PNG"))


def walk(source: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder below `source`, the paths of its files, and paths of hidden files and links to folders, with `/`.

    Folders of runs of casewise are left out.

    Raises:
        CasewiseError: the folder is missing or cannot be read, or the name of a file is not text.
    """
    if source.is_file():
        raise CasewiseError(f"--images: {source} is a file. Name the folder of the images, such as {source.parent}.")
    if not source.is_dir():
        raise CasewiseError(f"There is no folder {source} to read images from.{nearest_folder(source)}")

    def unreadable(error: OSError) -> None:
        raise CasewiseError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for directory, inner, files in os.walk(source, onerror=unreadable):
        here = Path(directory).relative_to(source)
        links = [name for name in inner if os.path.islink(os.path.join(directory, name))]
        inner[:] = sorted(n for n in inner if n not in links and not n.startswith(".") and n not in OF_SYSTEMS)
        inner[:] = [name for name in inner if not _is_of_casewise(os.path.join(directory, name))]
        _refuse_same_names(source / here, files)
        left_out = {*links, *(name for name in files if name.startswith("."))}
        paths = {name: (here / name).as_posix() for name in [*sorted(files), *links]}
        for path in paths.values():
            try:
                path.encode()
            except UnicodeEncodeError:
                raise CasewiseError(f"The file name {cut(path)} is not UTF-8. Rename the file.") from None
        yield (
            here.as_posix(),
            [path for name, path in paths.items() if name not in left_out],
            [path for name, path in paths.items() if name in left_out],
        )


def _is_of_casewise(folder: str) -> bool:
    """Whether a folder is a run of casewise, or has its explanations: its pictures are not images of cases.

    A run that was written into a folder of images leaves these as they are.
    """
    marks = [names for names in _OF_CASEWISE if all(os.path.isfile(os.path.join(folder, name)) for name in names)]
    explained = any("study.json" not in names for names in marks)
    return bool(marks) and (explained or not any(name.casefold().endswith(ENDINGS) for name in os.listdir(folder)))


def _refuse_same_names(folder: Path, files: Sequence[str]) -> None:
    """Refuse two files whose names have the same letters, stored in different forms: a table can name either.

    Raises:
        CasewiseError: there are two.
    """
    by_form: dict[str, str] = {}
    for name in sorted(files):
        other = by_form.setdefault(one_form(name), name)
        if other != name and not name.startswith("."):
            raise CasewiseError(
                f"{folder}: two files have the same name, whose letters are stored in different forms: "
                f"{as_codes([other, name])}. Rename or remove one."
            )


def read_new_layout(
    source: Path, *, regions: list[str], pattern: Pattern | None = None, has_visits: bool = True
) -> Layout:
    """The images of new cases below `source`: by a pattern, in a layout of `read_layout` without classes, or together.

    In one folder each image is a subject of its own, named by its file; or, if each name contains a region, all are of
    one subject, named by the folder.

    Args:
        has_visits: whether the study has visits; if not, folders are subjects whatever their names.

    Raises:
        CasewiseError: as `read_layout`; the subjects look like visits; a path does not match the pattern.
    """
    paths, skipped, belonging = _image_files(source)
    if pattern and paths:
        images = []
        for path, stated in zip(paths, read_paths(pattern, paths, source, regions), strict=True):
            region = find_region(stated.get("region", path.rpartition("/")[2]), regions)
            visit = stated.get("visit") or stated.get("date", "")
            if regions and not region:
                raise CasewiseError(
                    f"{source}: the region ({', '.join(regions)}) of {path} does not follow from its name."
                )
            images.append(FolderImage(path, stated["subject"], visit, region))
        return Layout(pattern.text, images, skipped, companions=belonging)
    if not paths or any("/" in path for path in paths):
        layout = read_layout(source, regions=regions, classes=None)
        if has_visits:
            refuse_visits(source, [image.subject for image in layout.images])
        return layout
    if regions and all(find_region(path, regions) for path in paths):
        name = one_form(source.resolve().name)
        images = [FolderImage(path, name, region=find_region(path, regions)) for path in paths]
        return Layout("subject/*.jpg", images, skipped, companions=belonging)
    images = [FolderImage(path, one_form(path), region=find_region(path, regions) if regions else "") for path in paths]
    return Layout("*.jpg", images, skipped, companions=belonging)


@dataclass(frozen=True)
class Pattern:
    """A pattern, with what was doubtful when it was inferred."""

    text: str
    doubts: list[str] = field(default_factory=list)

    @property
    def fields(self) -> list[str]:
        """The names of the placeholders in order, each once.

        >>> Pattern("{label}/{subject}_{visit}.jpg").fields
        ['label', 'subject', 'visit']
        """
        return list(dict.fromkeys(re.findall(r"\{(\w+)\}", self.text)))

    def read(self, path: str) -> dict[str, str] | None:
        """The values that a path states; None if it does not match. Endings of image files are not compared.

        >>> Pattern("{label}/{subject}_{visit}.jpg").read("benign/P07_week4.JPG")
        {'label': 'benign', 'subject': 'P07', 'visit': 'week4'}
        """
        match = re.fullmatch(self._expression(), one_form(stem_of(path)))
        return match.groupdict() if match else None

    def readings(self, path: str, regions: Sequence[str] = ()) -> list[str]:
        """The values of a path in words, without numbers and the file: one reading, or two if fields may be longer.

        `regions` of a study are read as they are found in the values.

        >>> Pattern("{subject}_{visit}/{file}").readings("UKE_7_w0/a.jpg")
        ['subject UKE, visit 7_w0', 'subject UKE_7, visit w0']
        """
        matches = (re.fullmatch(self._expression(longest), one_form(stem_of(path))) for longest in (False, True))
        stated = [{k: v for k, v in match.groupdict().items() if k not in OF_FILES} for match in matches if match]
        for values in stated if regions else ():
            if "region" in values:
                values["region"] = find_region(values["region"], list(regions)) or values["region"]
        return list(dict.fromkeys(", ".join(f"{k} {v}" for k, v in values.items()) for values in stated))

    def _expression(self, longest: bool = False) -> str:
        """A regular expression that prefers short values of fields, or long ones and little text between them.

        Where a field and `*` or a number touch, as in `{region}{n}`, the border is not within letters or digits.
        """
        pieces = re.split(r"(\{\w+\}|\*\*/|\*)", one_form(stem_of(self.text)))
        named: set[str] = set()
        expression, before = "", ""
        for piece in filter(None, pieces):
            name = piece[1:-1] if piece.startswith("{") else ""
            touching = name or piece == "*"
            if touching and before and (before in OF_FILES or name in OF_FILES or "*" in (before, piece)):
                expression += r"(?!(?<=[^\W\d_])[^\W\d_])(?!(?<=\d)\d)"
            before = name or piece * (piece == "*")
            if name:
                own = "[^/]+" if longest else "[^/]+?"
                own = rf"\d{{4}}-\d\d-\d\d|{own}" if name == "date" else own
                own = rf"\d+|{own}" if name in OF_FILES[:-1] else own
                expression += f"(?P={name})" if name in named else f"(?P<{name}>{own})"
                named.add(name)
            else:
                lazy = "?" * longest
                between = {"**/": f"(?:.*{lazy}/)?{lazy}", "*": f"[^/]*{lazy}"}
                expression += between.get(piece, re.escape(piece))
        return expression


def stated_pattern(text: str, *, of_cases: bool = False) -> Pattern:
    """A pattern that the user states; a field such as {patient} is {subject}, and other names are columns.

    Args:
        of_cases: of new cases, whose classes and further columns are not used.

    >>> stated_pattern("{label}/{patient_id}_{visit}.jpg").text
    '{label}/{subject}_{visit}.jpg'

    Raises:
        CasewiseError: it names no field, a field is misspelt, or braces are not closed.
    """
    example = "{subject}/{visit}/{file}" if of_cases else "{label}/{subject}_{visit}.jpg"
    if blank := next((name for name in re.findall(r"\{([^{}]+)\}", text) if not re.fullmatch(r"\w+", name)), ""):
        in_words = heading_words(blank).replace(" ", "_") or "name"
        raise CasewiseError(
            f"--pattern {text[:80]!r}: write names in braces as words with `_` between them: {{{in_words}}} is the "
            f"column {cut(blank)}."
        )
    fields = re.findall(r"\{([^{}]*)\}", text)
    plain = re.sub(r"\{\w+\}", "", text)
    if not fields or "{" in plain or "}" in plain:
        raise CasewiseError(
            f"--pattern {text[:80]!r}: write names in braces, such as '{example}'. "
            f"Names are {', '.join(FIELDS)}, or another column's name; `*` stands for any text within a name."
        )
    people = {name for name in fields if re.fullmatch(_PEOPLE, heading_words(name))}
    if "subject" not in fields and len(people) == 1:
        text = text.replace(f"{{{people.pop()}}}", "{subject}")
        fields = re.findall(r"\{([^{}]*)\}", text)
    visits = {name for name in fields if re.fullmatch(VISIT, heading_words(name))}
    if "visit" not in fields and len(visits) == 1:
        text = text.replace(f"{{{visits.pop()}}}", "{visit}")
        fields = re.findall(r"\{([^{}]*)\}", text)
    for name in fields:
        likely = difflib.get_close_matches(name.casefold(), FIELDS[:-2], 1, _MISSPELT)
        if name not in FIELDS and (likely or not name.isidentifier()):
            raise CasewiseError(
                f"--pattern: {{{name}}} is none of {', '.join(FIELDS)}.{nearest(name, FIELDS)} Another column needs a "
                "name of its own."
            )
    if of_cases and "label" in fields and "subject" not in fields:
        others = [name for name in FIELDS if name != "label"]
        raise CasewiseError(
            f"--pattern: {{label}} is none of {', '.join(others)}, and tells no people apart. State the {{subject}}, "
            "or write `*` for the folder of a class."
        )
    return Pattern(text)


def stem_of(path: str) -> str:
    """A path without the ending of an image file; other dots belong to the name.

    >>> stem_of("a/T1.nii.gz"), stem_of("P1.2.JPG"), stem_of("series1")
    ('a/T1', 'P1.2', 'series1')
    """
    folded = path.casefold()
    ending = next((e for e in (*VOLUME_FILES, *DICOM_SUFFIXES, *ENDINGS) if folded.endswith(e)), "")
    return path[: len(path) - len(ending)]


def read_paths(
    pattern: Pattern, paths: Sequence[str], source: Path, regions: Sequence[str] = ()
) -> list[dict[str, str]]:
    """What the path of each new image or scan below `source` states; a pattern without {subject} is of one subject.

    Raises:
        CasewiseError: a path does not match, or matches in several ways.
    """
    stated = [pattern.read(path) for path in paths]
    if unread := [path for path, values in zip(paths, stated, strict=True) if values is None]:
        raise CasewiseError(
            f"--pattern {pattern.text!r} does not match {len(unread):,} of {len(paths):,} paths below {source}, such "
            f"as {unread[0]}. Correct the pattern, or move files that are not cases elsewhere."
        )
    for path in paths:
        if len(readings := pattern.readings(path, regions)) > 1:
            raise CasewiseError(
                f"--pattern {pattern.text!r} can read {path} below {source} as {'; or as '.join(readings)}. Write text "
                "that all names share into the pattern, such as 'UKE_' in 'UKE_{subject}_{visit}/{file}', or give a "
                "table."
            )
    return [{"subject": one_form(source.resolve().name)} | (values or {}) for values in stated]


def looks_like_visit(name: str) -> bool:
    """Whether a name is usual for a visit, such as week0, v2 or a date."""
    return re.fullmatch(_VISIT_NAME, name, re.IGNORECASE) is not None


def refuse_visits(source: Path, subjects: Iterable[str]) -> None:
    """Refuse names of subjects that all look like visits, as in the folder of one subject.

    Raises:
        CasewiseError: they do; the message states the patterns of either reading.
    """
    names = list(dict.fromkeys(subjects))
    if names and all(map(looks_like_visit, names)):
        raise CasewiseError(
            f"{source}: the folders {', '.join(names[:3])} look like visits, and would be read as subjects. State "
            "--pattern, such as '{visit}/{file}' if this is the folder of one subject, or '{subject}/{file}' if not."
        )


def are_batches(names: Iterable[str]) -> bool:
    """Whether names of subjects rather name batches of files, places, devices, days or years: half of them or more do.

    >>> are_batches(["batch_01", "DICOM"]), are_batches(["Station 3", "2024-01-31"]), are_batches(["P01", "P02"])
    (True, True, False)
    >>> are_batches(["Klinikum Nord", "Praxis Süd"]), are_batches(["St. Mary Hospital", "Hospitality, Ann"])
    (True, True)
    """
    different = set(map(one_form, names))
    batches = [name for name in different if re.fullmatch(_BATCH, heading_words(name))]
    years = [name for name in different if re.fullmatch(_YEAR, name)]
    return 2 * max(len(batches), len(years) * (len(years) <= _MOST_YEARS)) >= max(1, len(different))


def batches_text(names: Iterable[str]) -> str:
    """What is doubtful about subjects with such names."""
    shown = ", ".join(sorted(dict.fromkeys(names), key=natural)[:3])
    return f"{shown} look like batches of files, places or devices. If they are not people, different people are one"


def find_region(name: str, regions: list[str]) -> str:
    """The region that a name contains, as a word or else within a word; '' if it contains none or several.

    Words of other languages count where it contains no region as the study writes it.

    >>> find_region("P01_Upper-left2.jpg", ["upper", "trunk", "lower"]), find_region("Beine 1.jpg", ["upper", "lower"])
    ('upper', 'lower')
    """
    folded = unaccented(name)
    words = re.split(r"[^a-z]+", folded)
    hits = [r for r in regions if unaccented(r) in words] or [r for r in regions if unaccented(r) in folded]
    if not hits:
        return named_region(name, regions)[0]
    return hits[0] if len(hits) == 1 else ""


def _shape(
    tails: list[tuple[str, ...]], regions: list[str], classes: list[str] | None, refuse: Callable[..., CasewiseError]
) -> str:
    """The meaning of the folders, all of one depth."""
    depth = len(tails[0]) - 1
    if depth == 0:
        raise refuse("images are in one folder, so the subjects are not known")
    if depth > 3:
        raise refuse(f"images are {depth} folders deep")
    in_regions = bool(regions) and all(find_region(name, regions) for name in {tail[-2] for tail in tails})
    if depth == 1 and in_regions:
        raise refuse("the folders are regions, so the subjects are not known")
    if depth == 1 and classes is not None and _are_classes({tail[0] for tail in tails}, classes, refuse):
        return "class/*.jpg"
    if depth == 2 and in_regions:
        return "subject/region/*.jpg"
    return {1: "subject/*.jpg", 2: "subject/visit/*.jpg", 3: "subject/visit/region/*.jpg"}[depth]


def _are_classes(names: set[str], classes: list[str], refuse: Callable[..., CasewiseError]) -> bool:
    """Whether folders of images are classes (else subjects), judged by their names."""
    if {alike(name) for name in names} & {alike(name) for name in classes}:
        return True
    if len(names) < 2:
        raise refuse("all images are in one folder, so the subjects are not known")
    if len(names) <= _MANY_CLASSES and all(GRADE.fullmatch(n) or not re.search(r"\d", n) for n in names):
        return True
    if len(names) <= 10 and sorted(names) in ([str(i + k) for i in range(len(names))] for k in (0, 1)):
        raise refuse("folders 0, 1, 2 … may be grades or subjects; name them grade0 or subject0")
    return False


def _own_subjects(images: list[FolderImage]) -> list[FolderImage]:
    """Name the unknown subject of each image by its file, and also by its folders if file names are repeated."""
    for keys in (("subject",), ("label", "subject"), ("side", "label", "subject")):
        names = ["-".join(filter(None, (getattr(image, key) for key in keys))) for image in images]
        if len({alike(name) for name in names}) == len(names):
            break
    else:
        names = [f"{image.path} {number}" for number, image in enumerate(images, start=1)]
    return [replace(image, subject=name) for image, name in zip(images, names, strict=True)]
