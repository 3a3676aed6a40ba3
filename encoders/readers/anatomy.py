"""Words by which headers of many countries name a chest, another body part, a view. Data, with one function."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from pydicom.dataset import Dataset

from encoders.readers.header import encodings_of, items_of, text_of

Region = Literal["chest", "other"]

# Tokens are compared lower-case and without accents. A trailing * makes a prefix of a word.
_CHEST = """
    chest* thorax* torax* torace* cxr thx lung lungs lunge* lungor poumon* pulmon* pulmao longen rib ribs ribcage
    rippen* costal* costillas cotes rippe borstkas* brustkorb* brystkasse* hrudnik* plice klatka* mellkas* akciger*
    gogus* keuhko* trunk grudn* legki* грудн* легки* θωρακ* 胸* 흉부*
"""
_THORACIC = re.compile(r"thorac|torac|thorak")                          # "thoracic spine" is none
_SPINE = """
    spine spinal vertebra* wirbel* ws bws hws lws rachis columna coluna colonna wervel* kregoslup* cspine tspine lspine
    tlspine ctspine lsspine sspine dorsal dorsolumbar* lumbar* lumbo* lendenwirbel* halswirbel* brustwirbel* cervical*
    sacrum sacral coccyx позвоноч* 脊 腰椎* 頚椎* 颈椎*
"""
_OTHER = """
    hand hands finger* thumb* wrist* forearm* elbow* humerus shoulder* scapula foot feet toe toes ankle* tibia* fibula
    knee* patella* femur* hip hips pelvi* skull head facial face sinus* nasal orbit orbits mandib* maxilla* jaw tooth
    teeth dental neck abdom* kub bowel kidney* bladder breast mammo* extremit* leg legs upperarm heel calcane* radius
    ulna acromio* stomach* biopsy wholebody* esophag* colon
    handgelenk* daumen* unterarm* oberarm* ellenbogen* schulter* fuss vorfuss* zehe* sprunggelenk* unterschenkel* knie*
    oberschenkel* hufte* huft* becken* bauch* schadel* kiefer* zahn* nase* ferse*
    poignet* doigt* pouce* coude* epaule* pied pieds orteil* cheville* jambe* genou* rotule* cuisse* hanche* bassin*
    crane* machoire* asp
    mano manos muneca* dedo* antebrazo* codo codos hombro* pie pies tobillo* pierna* rodilla* cadera* craneo* cuello*
    maos punho* cotovelo* ombro* tornozelo* joelho* quadril* bacia cranio* pescoco*
    pols vinger* elleboog* schouder* voet voeten teen tenen enkel* heup* bekken* buik* schedel*
    polso gomito* spalla* piede* caviglia* ginocchio* anca bacino* addome*
    backen* hoft* axel* 手* 足* 膝* 腹* 骨盤* 头* 頭*
"""
_MODALITY = """
    ct cta cat mr mri mra mrt us pet spect nm tdm irm tac tc rm rmn ultraso* sono* echo* ecogra* angio* mammo* szinti*
    scinti* fluoroscop* dexa densito* endosc* tomogra* magnet* biopsy
"""
# What no report on a chest radiograph of some length does without.
_INSIDE_CHEST = """
    lung* pulmon* pleur* pneumo* cardi* heart* thora* chest* mediastin* hilar hilum hila hili costophrenic diaphragm*
    hemidiaphragm* aort* rib ribs airspace* bronch* trachea* atelecta* infiltrat* opacit* consolidat*
    herz* kardi* rippen* zwerchfell* stauung* verschatt* brust* mediastinum* hilus*
    coeur cardiaque* poumon* plevre* plevral* coupole* hile hiles mediastin* bronchi* cotes
    corazon torax toraci* pulmao pulmoes cora* cardiotorac* costofrenic* diafragm* hilio* costilla* costela*
    hart harten hart* long longen pleura* cuore polmon* ilo ili diaframma*
    легк* сердц* лёгк* плевр* 肺* 心* 胸* 폐* 심* akciger* kalp pluc* serce oplucn* srdc* plic*
"""
_FRONTAL = "pa ap postero* antero* frontal* front face frente dorsoventral ventrodorsal"
_LATERAL = "lat lateral* ll rl seitlich* profil* perfil* zijdelings latero* laterolateral sagittal"
_QUALITY = """
    qc calibration calibracion calibrage kalibrier* flatfield konstanz* localizer scout topogram* surview* doserep*
"""
_ANIMAL = "canine feline equine bovine avian dog dogs veterin* tierarzt* tierklinik* kleintier* hund katze"


def _compile(words: str) -> re.Pattern[str]:
    alternatives = [re.escape(word[:-1]) + r"\w*" if word.endswith("*") else re.escape(word) for word in words.split()]
    return re.compile(r"(?<!\w)(?:" + "|".join(alternatives) + r")(?!\w)")


_PATTERNS = {name: _compile(words) for name, words in (
    ("chest", _CHEST), ("spine", _SPINE), ("other", _OTHER), ("frontal", _FRONTAL), ("lateral", _LATERAL),
    ("quality", _QUALITY), ("animal", _ANIMAL), ("modality", _MODALITY),
    ("inside", _INSIDE_CHEST),
)}


def normalised(text: str) -> str:
    """Return text for comparison: lower case, no accents, `P.A.` and `p-a` as `pa`, other separators as spaces."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    plain = re.sub(r"\b([pal])[.\- ]?([apl])\b\.?", r"\1\2", plain)
    return re.sub(r"[^\w]+|_+", " ", plain).strip()


def texts_of(dataset: Dataset, keywords: str) -> str:
    """Return the normalised text of several attributes, code sequences by their Code Meaning."""
    found: list[str] = []
    encodings = encodings_of(dataset)
    for keyword in keywords.split():
        if keyword.endswith("Sequence"):
            found += [text_of(item, "CodeMeaning", encodings) for item in items_of(dataset, keyword)]
        else:
            found.append(text_of(dataset, keyword, encodings))
    return normalised(" ; ".join(found))


def region_of(text: str) -> Region | None:
    """Return what normalised words say of the body region; chest wins where both are named, None if neither is."""
    if _PATTERNS["chest"].search(text):
        return "chest"
    spine = _PATTERNS["spine"].search(text) is not None
    if _THORACIC.search(text) and not spine:
        return "chest"
    return "other" if spine or _PATTERNS["other"].search(text) else None


def view_in(text: str) -> str:
    """Return ``frontal`` or ``lateral`` where normalised words name just one of them, else ``unknown``."""
    frontal, lateral = (_PATTERNS[name].search(text) is not None for name in ("frontal", "lateral"))
    if frontal == lateral:
        return "unknown"
    return "frontal" if frontal else "lateral"


def is_quality_control(text: str) -> bool:
    """Return whether words name a calibration, constancy test, localizer or dose report."""
    return _PATTERNS["quality"].search(text) is not None


def is_animal(text: str) -> bool:
    """Return whether words name an animal, or those who treat animals."""
    return _PATTERNS["animal"].search(text) is not None


def names_other_modality(text: str) -> bool:
    """Return whether words name an examination that is no projection radiograph."""
    return _PATTERNS["modality"].search(text) is not None


def tells_of_a_chest(text: str) -> bool:
    """Return whether a text of any length holds a word of what is seen on a chest radiograph."""
    return _PATTERNS["inside"].search(normalised(text)) is not None
