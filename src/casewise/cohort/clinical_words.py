"""The words of clinical tables and file names in English, German, French and Spanish, in one place.

Words are compared without case and accents: `Fläche` is `flache`, `Érythème` is `erytheme`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from casewise.names import one_form

# Headings of subjects.
STRONG_SUBJECT = (
    r"patients?|subjects?|participants?|probands?|persons?|people|pat|pid|mrn|subj|pt|proband(in|en|innen)?|u?subjid|"
    r"pacientes?|patient(e|es|en|in|innen)|sujetos?|sujets?|participantes?|teilnehmer(in|innen)?|"
    r"versuchsperson(en)?|personnes?|personas?|dossiers?|expedientes?|aktenzeichen"
)
# One of them that is also a laboratory value.
AMBIGUOUS_SUBJECT = "pt"
# Headings of visits. They are whole headings, or words of them.
VISIT = (
    r"a?visits?( ?num|n)?|visite[ns]?|visitas?|besuch|termin|zeitpunkt|timepoint|time point|point de mesure|"
    r"session|ses|seance|sesion|consultation|consulta|weeks?|wochen?|semaines?|semanas?|months?|monate?|mois|mes|meses|"
    r"follow ?up|fu|suivi|seguimiento|examination|exam|untersuchung|tp|wave|(folder|instance|event) ?name"
)
# Headings of days counted from a visit or date, and of dates.
DAYS = r"days?|tage?|jours?|dias?"
DATES = r"dates?|datum|fecha|tag|day"
# Headings of what describes people, without spaces; none of them is a result of images.
PEOPLE = (
    *(
        "age",
        "alter",
        "edad",
        "birthyear",
        "yearofbirth",
        "geburtsjahr",
        "jahrgang",
        "anneedenaissance",
        "anodenacimiento",
    ),
    *("sex", "gender", "geschlecht", "sexe", "sexo", "ethnicity", "race", "ethnie", "etnia", "herkunft"),
    *("skintone", "skintype", "fitzpatrick", "hautton", "hauttyp", "phototype", "fototyp"),
)
BODY = (
    *(
        "bmi",
        "weight",
        "height",
        "bodyweight",
        "bodyheight",
        "gewicht",
        "korpergewicht",
        "korpergrosse",
        "poids",
        "peso",
    ),
    *("taille", "talla", "smoker", "smoking", "raucher", "fumeur", "fumador"),
    *("grosse", "groesse", "koerpergroesse", "korperlange", "koerperlaenge", "korperhohe", "estatura", "stature"),
)
# Headings of laboratory values, without spaces.
LABORATORY = (
    *("crp", "hscrp", "bsg", "esr", "vsg", "hb", "hba1c", "hgb", "hamoglobin", "haemoglobin", "hemoglobin", "hct"),
    *("hamatokrit", "hematocrit", "leukozyten", "leukocytes", "leucocytes", "leucocitos", "wbc", "rbc", "erythrozyten"),
    *("thrombozyten", "platelets", "plaquettes", "plaquetas", "neutrophile", "neutrophils", "lymphozyten"),
    *("lymphocytes", "kreatinin", "creatinine", "creatinina", "egfr", "gfr", "harnstoff", "urea", "bun", "ldh", "ggt"),
    *("gpt", "bilirubin", "albumin", "ferritin", "transferrin", "calprotectin", "quantiferon", "inr"),
    *("ptt", "glucose", "glukose", "glucosa", "glycemie", "cholesterin", "cholesterol", "ldl", "hdl", "tsh"),
    *("psa", "natrium", "sodium", "kalium", "potassium", "procalcitonin", "ige", "igg", "igm", "anca"),
)
# Headings of regions of the body.
REGION = (
    r"(body |anatomic(al)? )?(regions?|sites?|locations?|zones?|areas?)|aloc|qsloc|loc|anatomy|"
    r"ko?e?rper(region|teil|stelle)|regionen|lokalisation(en)?|areal|(region|zone) (corporelle|du corps)|"
    r"eyes?|sides?|laterality|augen?|seite|oeil|cote|ojo|lado|"
    r"localisation( anatomique)?|(region|zona|area) (corporal|del cuerpo)|localizacion( anatomica)?|zonas?|regiones"
)
# Headings of hospitals and centres of a study, in which numbers of subjects may start again.
SITE = (
    r"(study |investigational )?(sites?|cent(er|re)s?|hospitals?|clinics?|institutions?)"
    r"( ?(id|no|nr|num|number|code))?|siten|(studien|pruf|pruef)?zentr(um|ums|en)( ?(id|nr|nummer|code))?|"
    r"klinik(um)?|standort|hopital|cent(re|ro)( ?(id|no|num|numero|code|codigo))?"
)
# What a person may have several of, each on its own images.
PART = (
    r"lesions?|la?esion(en)?|lesione[sn]?|moles?|na?evus|na?evi|nodules?|knoten|nodulos?|wounds?|wunden?|plaies?|"
    r"heridas?|ulcers?|plaques?|tooth|teeth|zahn|zahne|dents?|dientes?|rois?|spots?|herde?|tumou?rs?"
)
# Headings of the people who rated the cases.
RATER = (
    r"(raters?|readers?|assessors?|graders?|scorers?|observers?|evaluators?|reviewers?|examiners?|annotators?|"
    r"physicians?|doctors?|investigators?|[a-z]{2}eval(id)?|evalid|arzt|a(e)?rztin|untersucher(in)?|auswerter(in)?|"
    r"befunder(in)?|beurteiler(in)?|gutachter(in)?|pru(e)?fer(in)?|bewerter(in)?|lecteur|lectrice|evaluat(eur|rice)|"
    r"medecin|observateur|examinateur|evaluador|evaluadora|lector|medico|observador|examinador)"
    r"( ?(id|no|nr|num|number|code|name|initials))?"
)
# By word, the unit of time or the kind of visit that it states.
UNITS = {
    **dict.fromkeys(("w", "wk", "wks", "weeks", "woche", "wochen", "semaine", "semaines", "semana", "semanas"), "week"),
    **dict.fromkeys(("m", "mo", "mon", "mth", "months", "monat", "monate", "mois", "mes", "meses"), "month"),
    **dict.fromkeys(("d", "days", "tag", "tage", "jour", "jours", "j", "dia", "dias"), "day"),
    **dict.fromkeys(("y", "yr", "years", "jahr", "jahre", "ans", "annee", "annees", "ano", "anos"), "year"),
    **dict.fromkeys(("v", "visits", "visite", "visita", "besuch", "termin", "consultation", "consulta"), "visit"),
    **dict.fromkeys(("t", "tp", "timepoint", "zeitpunkt"), "time"),
    **dict.fromkeys(("bl", "base", "basal", "ausgangswert"), "baseline"),
    **dict.fromkeys(("scr", "screen"), "screening"),
    **dict.fromkeys(("fu", "fup"), "followup"),
    "eot": "endoftreatment",
    "eos": "endofstudy",
    "et": "earlytermination",
    "uns": "unscheduled",
}
# Units of a visit that one letter means only where it is known to be a visit: S0 is week 0 in French and Spanish.
LETTERS_OF_VISITS = {"s": "week"}
# Words of visits by their place in time, the first that matches; visits with other words have place 3, and place 7 is
# unknown. A follow-up after the end of treatment is a follow-up.
PLACES_OF_VISITS = {
    7: r"unscheduled|uns|unsched|unplanned|ungeplant\w*|au(ss|s)erplanma(ss|s)ig\w*|"
    r"non (programm|planifi)ee?|no programad[ao]",
    5: r"(safety )?follow ?up|fu|nachbeobachtung|nachsorge|nachuntersuchung|nachkontrolle|suivi|seguimiento",
    0: r"screening|screen|scr|voruntersuchung|(pre ?)?selection|depistage|cribado|(pre ?)?seleccion",
    1: r"run in|wash ?out|lead in|auswaschphase|einlaufphase",
    2: r"baseline|base|basal|bl|randomi[sz]ation|randomisierung|inclusion|einschluss|ausgangs(wert|befund|visite)|"
    r"basisvisite|visite initiale|etat initial|visita inicial|pre|before|vorher|avant|antes",
    4: r"(end|completion) of (treatment|therapy)|treatment end|eot|early (termination|discontinuation|withdrawal)|"
    r"discontinuation|(therapie|behandlungs)ende|ende der (therapie|behandlung)|(therapie)?abbruch|"
    r"fin (de|du|del) (traitement|tratamiento)|arret( (de|du) traitement)?|sortie prematuree|"
    r"post|after|nachher|apres|despues",
    6: r"end of (study|trial)|eos|final|last|studienende|ende der studie|abschluss(visite|untersuchung)?|"
    r"fin (de l |del |de )?(etude|estudio)|visite finale",
}
# How names of visits begin in folders, file names and headings of new tables.
VISIT_BEGINNINGS = (
    r"a?(visit|week|day|month|date|adt|ady)|besuch|termin|time|zeitpunkt|session|woche|monat|tag|datum|exam|unters|follow|"
    r"kontroll|encounter|semaine|semana|mois|meses|mes\b|jours?\b|dias?\b|fecha|seance|sesion|consult|suivi|seguim"
)
# Words of dermatologists for the signs of psoriasis and their extent.
SIGNS = {
    "erythema": "erythem erytheme eritema redness rotung roetung rougeur rojez enrojecimiento ery",
    "induration": (
        "induration induracion thickness infiltration infiltrat infiltracion dicke verdickung epaisseur epaississement "
        "espesor grosor engrosamiento"
    ),
    "scaling": "scale scales scaliness desquamation schuppung schuppen abschuppung squame squames descamacion escamas",
    "area": (
        "extent coverage flache flaeche befallsflache befallsflaeche befall ausdehnung surface superficie etendue "
        "extension aire"
    ),
}
# Words for regions of the body, phrases with `_`. `arm` alone is not among them, because it is also an arm of a trial.
_OF_BODY = {
    "head": "head head_and_neck kopf tete cabeza",
    "upper": (
        "upper upper_extremities upper_extremity upper_limbs upper_limb arms arme armen bras brazos obere "
        "obere_extremitaten obere_extremitaeten obere_extremitat oberen_extremitaten membres_superieurs "
        "membre_superieur extremites_superieures extremidades_superiores extremidad_superior miembros_superiores"
    ),
    "trunk": "trunk torso rumpf korperstamm koerperstamm tronc tronco",
    "lower": (
        "lower lower_extremities lower_extremity lower_limbs lower_limb legs leg beine beinen bein jambes jambe "
        "piernas pierna untere untere_extremitaten untere_extremitaeten untere_extremitat unteren_extremitaten "
        "membres_inferieurs membre_inferieur extremites_inferieures extremidades_inferiores extremidad_inferior "
        "miembros_inferiores"
    ),
}
# Words for the sides of a person, of eyes (OD, OS) too, and for before and after a treatment.
_OF_SIDES = {
    "left": "left l lt os links li linke linker linkes gauche og izquierda izquierdo izq oi",
    "right": "right r rt od rechts re rechte rechter rechtes droite droit derecha derecho der",
    "before": "before pre vor vorher avant antes",
    "after": "after post nach nachher apres despues",
}
BEFORE, AFTER = (frozenset(_OF_SIDES[name].split()) for name in ("before", "after"))
# Parts of the body, which are no hospitals.
BODY_PARTS = (
    r"hands?|feet|foot|arms?|legs?|knees?|elbows?|face|facial|scalp|chest|thorax|back|abdomen|belly|hips?|shoulders?|neck|"
    r"eyes?|ears?|nails?|lips?|mouth|nose|skin|head|trunk|groin|axillae?|wrists?|ankles?|fingers?|toes?|hande?|fusse?|"
    r"knie|ellbogen|gesicht|kopf|brust|rucken|bauch|hufte|schulter|hals|augen?|ohr(en)?|nagel|lippen?|mund|nase|haut|"
    r"zehen?|mains?|pieds?|genoux?|coudes?|visage|dos|ventre|hanches?|epaules?|cou|yeux|oreilles?|ongles?|manos?|pies?|"
    r"rodillas?|codos?|cara|espalda|caderas?|hombros?|cuello|ojos?|orejas?|unas?"
)
# Names of regions in a study that are no words for them elsewhere.
_NAMES_IN_STUDIES = {"arm": "upper", "brazo": "upper"}
Words = tuple[str, ...]
# A number, capitals, or a word with its capital: `erythemaUpper2` has three.
WORD = re.compile(r"\d+|[A-ZÄÖÜ]+(?![a-zäöüß])|[A-ZÄÖÜ]?[^\W\d_A-ZÄÖÜ]+")


def unaccented(text: str) -> str:
    """A text without case and accents.

    >>> unaccented("Érythème"), unaccented("Körperregion"), unaccented("Straße")
    ('erytheme', 'korperregion', 'strasse')
    """
    if text.isascii():
        return text.casefold()
    letters = unicodedata.normalize("NFKD", one_form(text))
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def plain_words(text: str) -> Words:
    """The words and numbers of a heading or file name, without case, accents and leading zeros.

    >>> plain_words("Érythème_bras02"), plain_words("erythemaUpper")
    (('erytheme', 'bras', '2'), ('erythema', 'upper'))
    """
    return tuple(map(unaccented, _words(text)))


def _words(text: str) -> Words:
    return tuple(w.lstrip("0") or "0" if w.isdecimal() else w.casefold() for w in WORD.findall(one_form(text)))


@lru_cache(10_000)
def region_phrases(region: str) -> tuple[Words, ...]:
    """The words and phrases that mean a region, the longest first; only its own if it is no region of the body.

    >>> region_phrases("trunk")[-3:], region_phrases("left lung")
    ((('koerperstamm',), ('tronc',), ('tronco',)), (('left', 'lung'),))
    """
    own = plain_words(region)
    words = _OF_BODY | _OF_SIDES
    phrases = {name: [tuple(each.split("_")) for each in text.split()] for name, text in words.items()}
    named = {name for name, of_name in phrases.items() if own in of_name} | {_NAMES_IN_STUDIES.get(" ".join(own), "")}
    others = [phrase for name in sorted(named - {""}) for phrase in phrases[name] if phrase != own]
    return tuple(sorted([own, *others], key=len, reverse=True))


def named_region(text: str, regions: Sequence[str]) -> tuple[str, Words]:
    """The only region that whole words of a text name, and the other words; ('', all words) if none or several do.

    >>> named_region("Erythem obere Extremitäten", ["upper", "trunk", "lower"])
    ('upper', ('erythem',))
    >>> named_region("upper to lower", ["upper", "trunk", "lower"])[0], named_region("arm", ["upper", "trunk"])[0]
    ('', '')
    """
    words, plain = _words(text), plain_words(text)
    hits: dict[str, tuple[Words, int]] = {}
    for region in regions:
        starts = ((phrase, _start(phrase, plain)) for phrase in region_phrases(region) if phrase)
        if hit := next(((phrase, start) for phrase, start in starts if start >= 0), None):
            hits[region] = hit
    if len(hits) > 1:  # a region as the study writes it comes before one in other words
        hits = {r: h for r, h in hits.items() if _start(plain_words(r), plain) >= 0}
    if len(hits) != 1:
        return "", words
    ((region, (phrase, start)),) = hits.items()
    return region, (*words[:start], *words[start + len(phrase) :])


def _start(phrase: Words, words: Words) -> int:
    """Where a phrase begins in words; -1 if they do not contain it."""
    starts = range(len(words) - len(phrase) + 1)
    return next((start for start in starts if words[start : start + len(phrase)] == phrase), -1)


def sign_of(words: Sequence[str]) -> str:
    """The sign of psoriasis that words name; '' if none or several.

    >>> sign_of(["schuppung", "arme"]), sign_of(["Étendue"]), sign_of(["gewicht"])
    ('scaling', 'area', '')
    """
    plain = set(map(unaccented, words))
    hits = [sign for sign, text in SIGNS.items() if {sign, *text.split()} & plain]
    return hits[0] if len(hits) == 1 else ""
