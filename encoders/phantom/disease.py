"""What can be wrong in a phantom's chest, how often, where and how large; and what CheXpert would call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES
from encoders.phantom.anatomy import ZONES, Anatomy
from encoders.phantom.canvas import Point


class Kind(StrEnum):
    """What can be drawn."""

    CARDIOMEGALY = "cardiomegaly"
    WIDE_MEDIASTINUM = "wide mediastinum"
    EDEMA = "edema"
    CONSOLIDATION = "consolidation"
    ATELECTASIS = "atelectasis"
    NODULE = "nodule"
    EFFUSION = "effusion"
    PNEUMOTHORAX = "pneumothorax"
    PLEURAL_THICKENING = "pleural thickening"
    FRACTURE = "fracture"
    ET_TUBE = "endotracheal tube"
    CENTRAL_LINE = "central line"
    FEEDING_TUBE = "feeding tube"
    PACEMAKER = "pacemaker"


CHRONIC = frozenset({Kind.CARDIOMEGALY, Kind.NODULE, Kind.PLEURAL_THICKENING, Kind.PACEMAKER, Kind.FRACTURE,
                     Kind.WIDE_MEDIASTINUM})

#: CheXpert's names for what is drawn. A consolidation is always called an opacity too, and nothing else is.
CHEXPERT: dict[Kind, tuple[str, ...]] = {
    Kind.CARDIOMEGALY: ("Cardiomegaly",),
    Kind.WIDE_MEDIASTINUM: ("Enlarged Cardiomediastinum",),
    Kind.EDEMA: ("Edema",),
    Kind.CONSOLIDATION: ("Consolidation", "Lung Opacity"),
    Kind.ATELECTASIS: ("Atelectasis",),
    Kind.NODULE: ("Lung Lesion",),
    Kind.EFFUSION: ("Pleural Effusion",),
    Kind.PNEUMOTHORAX: ("Pneumothorax",),
    Kind.PLEURAL_THICKENING: ("Pleural Other",),
    Kind.FRACTURE: ("Fracture",),
    Kind.ET_TUBE: ("Support Devices",),
    Kind.CENTRAL_LINE: ("Support Devices",),
    Kind.FEEDING_TUBE: ("Support Devices",),
    Kind.PACEMAKER: ("Support Devices",),
}

#: Share of abnormal studies that show it first, and then what else comes with it: ordered as a ward would see them.
PREVALENCE: dict[Kind, float] = {
    Kind.CARDIOMEGALY: 0.30, Kind.EFFUSION: 0.30, Kind.CONSOLIDATION: 0.26, Kind.ATELECTASIS: 0.20,
    Kind.EDEMA: 0.16, Kind.NODULE: 0.13, Kind.PNEUMOTHORAX: 0.08, Kind.FRACTURE: 0.08,
    Kind.WIDE_MEDIASTINUM: 0.04, Kind.PLEURAL_THICKENING: 0.04,
}
DEVICES: dict[Kind, float] = {
    Kind.ET_TUBE: 0.10, Kind.CENTRAL_LINE: 0.14, Kind.FEEDING_TUBE: 0.10, Kind.PACEMAKER: 0.10,
}


@dataclass(frozen=True, slots=True)
class Abnormality:
    """One thing that is drawn and reported.

    Attributes
    ----------
    side, zone : str
        ``right``, ``left``, ``both`` or empty; ``upper``, ``mid``, ``lower`` or empty. The patient's side.
    size : float
        Centimetres for a nodule (diameter), a pneumothorax (separation) and a tube (tip above the carina);
        else 0..1, trace to gross.
    place : tuple of float or None
        Its middle in cm in the frontal projection (`Anatomy.place`), where it has one.
    likely_pneumonia : float
        For a consolidation: 1 pneumonia, -1 perhaps, 0 not said.
    rib : int
        For a fracture: the rib's number.
    """

    kind: Kind
    side: str = ""
    zone: str = ""
    size: float = 0.5
    place: Point | None = None
    likely_pneumonia: float = 0.0
    rib: int = 0


def findings_of(abnormalities: Iterable[Abnormality]) -> dict[str, float]:
    """Return CheXpert's 14: 1 where drawn, 0 where not; Pneumonia -1 where the report leaves it open.

    As CheXpert has it, devices alone leave "No Finding" at 1.
    """
    found = dict.fromkeys(FINDING_NAMES, 0.0)
    for each in abnormalities:
        for name in CHEXPERT[each.kind]:
            found[name] = 1.0
        if each.likely_pneumonia and found["Pneumonia"] != 1.0:
            found["Pneumonia"] = each.likely_pneumonia
    found["No Finding"] = float(not any(found[name] for name in ABNORMAL_FINDINGS))
    return found


def draw_abnormality(rng: np.random.Generator, kind: Kind, anatomy: Anatomy) -> tuple[Abnormality, ...]:
    """Return a random abnormality of a kind (two for both sides), with its place in this anatomy."""
    side = "right" if rng.random() < 0.5 else "left"
    severity = float(np.clip(rng.beta(2.0, 2.2), 0.12, 0.97))
    if kind is Kind.EFFUSION:
        if rng.random() < 0.3:
            other = float(np.clip(severity * rng.uniform(0.5, 1.1), 0.12, 0.9))
            return Abnormality(kind, "right", size=severity), Abnormality(kind, "left", size=other)
        return (Abnormality(kind, side, size=severity),)
    if kind is Kind.CONSOLIDATION:
        zone = ZONES[int(rng.choice(3, p=[0.25, 0.25, 0.5]))]
        pneumonia = float(rng.choice([1.0, -1.0, 0.0], p=[0.5, 0.3, 0.2]))
        place = anatomy.place(side, zone, float(rng.uniform(0.4, 0.68)), float(rng.uniform(0.35, 0.65)))
        return (Abnormality(kind, side, zone, max(0.3, severity), place, pneumonia),)
    if kind is Kind.NODULE:
        zone = ZONES[int(rng.choice(3, p=[0.45, 0.3, 0.25]))]
        place = anatomy.place(side, zone, float(rng.uniform(0.3, 0.75)), float(rng.uniform(0.2, 0.8)))
        return (Abnormality(kind, side, zone, round(float(rng.uniform(1.0, 4.5)), 1), place),)
    if kind is Kind.ATELECTASIS:
        place = anatomy.place(side, "lower", 0.5, float(rng.uniform(0.15, 0.4)))
        return (Abnormality(kind, side, "lower", severity, place),)
    if kind is Kind.PNEUMOTHORAX:
        return (Abnormality(kind, side, "upper", round(float(rng.uniform(1.2, 4.0)), 1)),)
    if kind is Kind.FRACTURE:
        return (Abnormality(kind, side, size=severity, rib=int(rng.integers(5, 9))),)
    if kind is Kind.PLEURAL_THICKENING:
        return (Abnormality(kind, side, "upper", severity),)
    if kind is Kind.CENTRAL_LINE:
        return (Abnormality(kind, "right" if rng.random() < 0.8 else "left"),)
    if kind is Kind.PACEMAKER:
        return (Abnormality(kind, "left" if rng.random() < 0.85 else "right"),)
    if kind is Kind.ET_TUBE:
        return (Abnormality(kind, size=round(float(rng.uniform(2.5, 6.0)), 1)),)
    return (Abnormality(kind, size=severity),)


def sample(rng: np.random.Generator, anatomy: Anatomy, abnormal_share: float = 0.5,
           kept: Iterable[Abnormality] = ()) -> tuple[Abnormality, ...]:
    """Return what is wrong in one study: nothing in half of them, else one to four things that go together.

    `kept` are the chronic abnormalities of the patient's earlier study; they stay.
    """
    found: dict[Kind, tuple[Abnormality, ...]] = {}
    for each in kept:
        found[each.kind] = (*found.get(each.kind, ()), each)
    if not found and rng.random() >= abnormal_share:
        return ()
    chances = _with_companions(rng, PREVALENCE)
    for kind, chance in chances.items():
        if kind not in found and len(found) < 4 and rng.random() < chance:
            found[kind] = draw_abnormality(rng, kind, anatomy)
    ill = len(found) / 2
    for kind, chance in DEVICES.items():
        if kind not in found and rng.random() < chance * (0.6 + ill):
            found[kind] = draw_abnormality(rng, kind, anatomy)
    if not found:
        kind = list(PREVALENCE)[int(rng.choice(len(PREVALENCE), p=_shares(PREVALENCE)))]
        found[kind] = draw_abnormality(rng, kind, anatomy)
    return tuple(each for kind in Kind for each in found.get(kind, ()))


def _with_companions(rng: np.random.Generator, prevalence: Mapping[Kind, float]) -> dict[Kind, float]:
    """Return chances for one study: a failing heart brings oedema and effusions, a fall fracture and pneumothorax."""
    chances = {kind: chance * 0.8 for kind, chance in prevalence.items()}
    story = rng.random()
    if story < 0.2:
        chances |= {Kind.CARDIOMEGALY: 0.9, Kind.EDEMA: 0.7, Kind.EFFUSION: 0.65, Kind.PNEUMOTHORAX: 0.01}
    elif story < 0.28:
        chances |= {Kind.FRACTURE: 0.8, Kind.PNEUMOTHORAX: 0.45, Kind.EDEMA: 0.02}
    elif story < 0.4:
        chances |= {Kind.CONSOLIDATION: 0.95, Kind.CARDIOMEGALY: 0.1, Kind.NODULE: 0.02}
    return chances


def _shares(prevalence: Mapping[Kind, float]) -> list[float]:
    total = sum(prevalence.values())
    return [chance / total for chance in prevalence.values()]
