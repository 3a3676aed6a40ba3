"""Synthetic studies: who, what, when, and the pictures and report of one study; the same seed gives the same study."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import Anatomy, person
from encoders.phantom.disease import CHRONIC, Abnormality, Kind, findings_of, sample
from encoders.phantom.film import expose
from encoders.phantom.report import Dictation, dictate

#: Every UID of the simulator is a name-based UUID (PS3.5 B.2) below this one.
NAMESPACE = uuid.UUID("6f0f2b0e-6a0f-5d0e-9c55-3d2a6b3c7d11")
FIRST_DAY = date(2015, 1, 5)
YEARS = 10
#: Rows and columns of common detectors: 43 cm at 0.139 to 0.2 mm.
DETECTORS: tuple[tuple[int, int], ...] = ((2022, 2022), (2500, 2048), (2140, 1760), (2320, 2828), (2494, 2048),
                                          (2048, 2048))


@dataclass(frozen=True, slots=True)
class SyntheticStudy:
    """One study that nobody ever had.

    Attributes
    ----------
    number : int
        0 for the first study of a seed.
    patient : int
        Several studies can be of one patient; they share the anatomy and the chronic abnormalities.
    findings : dict
        CheXpert's 14 names: 1 drawn and reported, 0 not, -1 left open by the report (Pneumonia only).
    views : tuple of str
        ``frontal`` and, on a share of the studies, ``lateral``.
    """

    seed: int
    number: int
    patient: int
    anatomy: Anatomy
    birth: date
    age: int
    abnormalities: tuple[Abnormality, ...]
    findings: dict[str, float]
    views: tuple[str, ...]
    taken: datetime
    dictation: Dictation
    preliminary: bool

    @property
    def patient_id(self) -> str:
        """Return an ID that nobody takes for a patient's."""
        return f"SYNTHETIC-{self.seed}-{self.patient:04d}"

    @property
    def accession_number(self) -> str:
        """Return an accession number, at most 16 characters (SH)."""
        return f"SYN{self.seed % 10**5:05d}{self.number % 10**7:07d}"

    @property
    def portable(self) -> bool:
        """Return whether the film was taken at the bedside (antero-posterior): the intubated cannot stand."""
        return any(each.kind is Kind.ET_TUBE for each in self.abnormalities)

    @property
    def description(self) -> str:
        """Return the Study Description."""
        if self.portable:
            return "XR CHEST AP PORTABLE"
        return "XR CHEST PA AND LATERAL" if len(self.views) > 1 else "XR CHEST PA"

    def uid(self, *parts: object) -> str:
        """Return the UID of a part of this study: the same for the same seed."""
        return derived_uid(self.seed, self.number, *parts)

    def pixels(self, view: str, rows: int, columns: int) -> Float32:
        """Return one picture, float32 (rows, columns) 0..1, larger is brighter."""
        rng = np.random.default_rng([self.seed, self.number, 1 + self.views.index(view)])
        return expose(self.anatomy, self.abnormalities, view, (rows, columns), rng)


def derived_uid(*parts: object) -> str:
    """Return a UID below 2.25 that depends on `parts` alone."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def simulate(studies: int, seed: int, *, abnormal_share: float = 0.5,
             lateral_share: float = 0.3) -> Iterator[SyntheticStudy]:
    """Yield `studies` studies of about three quarters as many patients; nothing is drawn yet.

    Study n of a seed is the same however many are asked for.
    """
    number, patient = 0, 0
    while number < studies:
        rng = np.random.default_rng([seed, 7919, patient])
        anatomy = person(rng)
        visits = int(rng.choice([1, 2, 3, 4], p=[0.74, 0.16, 0.07, 0.03]))
        day = FIRST_DAY + timedelta(days=int(rng.integers(YEARS * 365)))
        birth = day - timedelta(days=round(anatomy.age * 365.25))
        kept: tuple[Abnormality, ...] = ()
        earlier = ""
        for _ in range(visits):
            if number >= studies:
                return
            abnormalities = sample(rng, anatomy, abnormal_share, kept)
            bedside = any(each.kind is Kind.ET_TUBE for each in abnormalities)
            views = ("frontal", "lateral") if rng.random() < lateral_share and not bedside else ("frontal",)
            taken = datetime(day.year, day.month, day.day) + timedelta(seconds=int(rng.integers(7 * 3600, 21 * 3600)))
            yield SyntheticStudy(
                seed=seed, number=number, patient=patient, anatomy=anatomy, birth=birth,
                age=(day - birth).days * 4 // 1461, abnormalities=abnormalities, findings=findings_of(abnormalities),
                views=views, taken=taken, dictation=dictate(rng, abnormalities, views, earlier),
                preliminary=bool(rng.random() < 0.1))
            kept = tuple(each for each in abnormalities if each.kind in CHRONIC)
            earlier = f"{day:%d %b %Y}"
            day += timedelta(days=int(rng.integers(2, 500)))
            number += 1
        patient += 1


def draw(seed: int, size: int = 256, view: str = "frontal") -> tuple[Float32, dict[str, float], str, str]:
    """Return (pixels float32 (size, size) 0..1, CheXpert findings, Findings text, Impression text) of one study.

    For training: no DICOM, one study a seed.
    """
    rng = np.random.default_rng([seed, 104729])
    anatomy = person(rng)
    abnormalities = sample(rng, anatomy)
    dictation = dictate(rng, abnormalities, (view,))
    pixels = expose(anatomy, abnormalities, view, (size, size), rng)
    return pixels, findings_of(abnormalities), dictation.findings, dictation.impression
