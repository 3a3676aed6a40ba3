"""The report of a phantom in a radiologist's words: exactly what is drawn, where and how large, and what is absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from encoders.base import ReportText
from encoders.phantom.disease import Abnormality, Kind

_NORMAL_LUNGS = ("The lungs are clear.", "Lungs are clear bilaterally.", "No focal consolidation.",
                 "The lungs are well expanded and clear.", "No focal airspace consolidation is seen.")
_NORMAL_HEART = ("Heart size is normal.", "The cardiac silhouette is within normal limits.",
                 "The heart is normal in size.", "Cardiac and mediastinal contours are within normal limits.")
_NORMAL_PLEURA = ("No pleural effusion or pneumothorax.", "There is no pleural effusion or pneumothorax.",
                  "No pneumothorax or pleural effusion is seen.",
                  "The pleural spaces are clear, without effusion or pneumothorax.")
_NORMAL_BONES = ("No acute osseous abnormality.", "The visualized bones are intact.",
                 "Osseous structures are unremarkable.", "No acute bony abnormality is identified.")
_NORMAL_IMPRESSION = ("No acute cardiopulmonary process.", "No acute cardiopulmonary abnormality.",
                      "Normal chest radiograph.", "No acute disease.", "No evidence of acute cardiopulmonary disease.")

_INDICATIONS: dict[Kind | None, tuple[str, ...]] = {
    None: ("Cough.", "Pre-operative evaluation.", "Chest pain.", "Annual examination.", "Positive tuberculin test.",
           "Shortness of breath.", "Dizziness."),
    Kind.CARDIOMEGALY: ("Dyspnea on exertion.", "Hypertension.", "Shortness of breath and leg swelling."),
    Kind.EDEMA: ("Acute shortness of breath.", "Orthopnea, known heart disease."),
    Kind.CONSOLIDATION: ("Fever and productive cough.", "Fever, cough, elevated white count."),
    Kind.NODULE: ("Weight loss, smoker.", "Hemoptysis."),
    Kind.EFFUSION: ("Shortness of breath, decreased breath sounds.", "Dyspnea."),
    Kind.PNEUMOTHORAX: ("Sudden pleuritic chest pain.", "Chest pain after a fall."),
    Kind.FRACTURE: ("Fall, chest wall tenderness.", "Motor vehicle collision."),
    Kind.ET_TUBE: ("Intubated, tube placement.",), Kind.CENTRAL_LINE: ("Central line placement.",),
    Kind.FEEDING_TUBE: ("Feeding tube placement.",), Kind.PACEMAKER: ("Status post pacemaker placement.",),
}


@dataclass(frozen=True, slots=True)
class Dictation:
    """The sections of one report."""

    indication: str
    technique: str
    comparison: str
    findings: str
    impression: str

    @property
    def text(self) -> ReportText:
        """Return the two sections that the text tower reads."""
        return ReportText(findings=self.findings, impression=self.impression)


def dictate(rng: np.random.Generator, abnormalities: Sequence[Abnormality], views: Sequence[str],
            earlier: str = "") -> Dictation:
    """Return a report; `earlier` is the date of the study it compares with, if any."""
    kinds = {each.kind for each in abnormalities}

    def one(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    sentences: list[str] = []
    impressions: list[str] = []
    for each in sorted(abnormalities, key=lambda a: list(Kind).index(a.kind)):
        finding, impression = _phrases(each)
        sentences.append(one(finding))
        if impression:
            impressions.append(one(impression))
    absent: list[str] = []
    if not kinds & {Kind.CONSOLIDATION, Kind.EDEMA, Kind.ATELECTASIS, Kind.NODULE}:
        absent.append(one(_NORMAL_LUNGS))
    elif Kind.CONSOLIDATION not in kinds and rng.random() < 0.6:
        absent.append(one(("No focal consolidation.", "There is no focal airspace consolidation.")))
    if not kinds & {Kind.EDEMA} and rng.random() < 0.35:
        absent.append(one(("No pulmonary edema.", "No overt edema.", "There is no evidence of pulmonary edema.")))
    absent.append(_pleura(one, kinds))
    if not kinds & {Kind.CARDIOMEGALY, Kind.WIDE_MEDIASTINUM}:
        absent.append(one(_NORMAL_HEART))
    elif Kind.WIDE_MEDIASTINUM in kinds and Kind.CARDIOMEGALY not in kinds:
        absent.append(one(("Heart size is normal.", "The heart is normal in size.")))
    if Kind.FRACTURE not in kinds and rng.random() < 0.7:
        absent.append(one(_NORMAL_BONES))
    body = [*sentences, *[text for text in absent if text]]
    if not impressions:
        impressions = [one(_NORMAL_IMPRESSION)] if not kinds else ["No acute cardiopulmonary process."]
    if len(impressions) > 1:
        impressions = [f"{number}. {text}" for number, text in enumerate(impressions, 1)]
    reason = next((kind for kind in Kind if kind in kinds and kind in _INDICATIONS), None)
    return Dictation(
        indication=one(_INDICATIONS[reason]),
        technique=f"{'Frontal and lateral views' if 'lateral' in views else 'Single frontal view'} of the chest.",
        comparison=f"Chest radiograph of {earlier}." if earlier else "None.",
        findings=" ".join(body), impression=" ".join(impressions))


def _pleura(choose: Callable[[Sequence[str]], str], kinds: set[Kind]) -> str:
    """Return what is said of the pleural diseases that are absent."""
    if Kind.EFFUSION in kinds and Kind.PNEUMOTHORAX in kinds:
        return ""
    if Kind.EFFUSION in kinds:
        return (choose(("No pneumothorax.", "There is no pneumothorax.", "No pneumothorax is seen.")))
    if Kind.PNEUMOTHORAX in kinds:
        return (choose(("No pleural effusion.", "There is no pleural effusion.")))
    if Kind.PLEURAL_THICKENING in kinds:
        return "No pleural effusion or pneumothorax."
    return (choose(_NORMAL_PLEURA))


def _grade(size: float) -> str:
    return ("small", "moderate", "large")[0 if size < 0.38 else 1 if size < 0.68 else 2]


def _severity(size: float) -> str:
    return ("mild", "moderate", "severe")[0 if size < 0.38 else 1 if size < 0.68 else 2]


def _lobe(side: str, zone: str) -> str:
    if side == "left" and zone == "mid":
        return "lingula"
    return f"{side} {'middle' if zone == 'mid' else zone} lobe"


def _phrases(each: Abnormality) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return wordings for the Findings and for the Impression section (none where it is not worth repeating)."""
    side, zone, grade, severity = each.side, each.zone, _grade(each.size), _severity(each.size)
    cap = severity.capitalize()
    match each.kind:
        case Kind.CARDIOMEGALY:
            return ((f"The heart is {'mildly' if severity == 'mild' else severity + 'ly'} enlarged.",
                     f"There is {severity} cardiomegaly.", f"{cap} enlargement of the heart."),
                    (f"{cap} cardiomegaly.", "Cardiomegaly.", "Enlarged heart."))
        case Kind.WIDE_MEDIASTINUM:
            return (("The mediastinum is widened.", "There is widening of the superior mediastinum.",
                     "Mediastinal widening is noted."), ("Widened mediastinum.", "Mediastinal widening."))
        case Kind.EDEMA:
            return ((f"There is {severity} pulmonary edema with indistinct perihilar vessels and septal lines.",
                     f"Kerley B lines and peribronchial cuffing, consistent with {severity} pulmonary edema.",
                     f"{cap} interstitial edema with engorged upper lobe vessels."),
                    (f"{cap} pulmonary edema.", "Pulmonary edema."))
        case Kind.CONSOLIDATION:
            lobe = _lobe(side, zone)
            later = {1.0: (f"{lobe.capitalize()} pneumonia.",
                           f"Consolidation in the {lobe}, consistent with pneumonia."),
                     -1.0: (f"Consolidation in the {lobe}, which may represent pneumonia.",
                            f"Possible pneumonia in the {lobe}.")
                     }.get(each.likely_pneumonia, (f"Consolidation in the {lobe}.", f"Airspace opacity in the {lobe}."))
            return ((f"There is airspace opacity in the {lobe} consistent with consolidation.",
                     f"Focal consolidation with patchy opacity in the {lobe}.",
                     f"Consolidation is present in the {lobe}, an ill-defined opacity in the {side} {zone} zone."),
                    later)
        case Kind.ATELECTASIS:
            return ((f"There is linear atelectasis at the {side} lung base.",
                     f"Plate-like atelectasis at the {side} base.",
                     f"Bands of subsegmental atelectasis are present at the {side} lung base."),
                    (f"{side.capitalize()} basilar atelectasis.", f"Subsegmental atelectasis at the {side} base."))
        case Kind.NODULE:
            noun = "nodule" if each.size <= 3.0 else "mass"
            return ((f"There is a {each.size:.1f} cm {noun} in the {side} {zone} lung zone.",
                     f"A rounded {each.size:.1f} cm pulmonary {noun} projects over the {side} {zone} lung."),
                    (f"{each.size:.1f} cm {side} {zone} lung {noun}; CT is recommended.",
                     f"Pulmonary {noun} in the {side} {zone} lung zone."))
        case Kind.EFFUSION:
            return ((f"There is a {grade} {side} pleural effusion.", f"{grade.capitalize()} {side} pleural effusion.",
                     f"Blunting of the {side} costophrenic angle, consistent with a {grade} {side} pleural effusion."),
                    (f"{grade.capitalize()} {side} pleural effusion.", f"{side.capitalize()} pleural effusion."))
        case Kind.PNEUMOTHORAX:
            size = "small" if each.size < 2 else "moderate" if each.size < 3 else "large"
            return ((f"There is a {size} {side} apical pneumothorax measuring {each.size:.1f} cm.",
                     f"{size.capitalize()} {side} pneumothorax, its pleural line {each.size:.1f} cm from the wall."),
                    (f"{size.capitalize()} {side} pneumothorax.", f"{side.capitalize()} pneumothorax."))
        case Kind.PLEURAL_THICKENING:
            return ((f"There is {side} apical pleural thickening.", f"Pleural thickening at the {side} apex."),
                    (f"{side.capitalize()} apical pleural thickening.",))
        case Kind.FRACTURE:
            rib = {5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"}.get(each.rib, f"{each.rib}th")
            return ((f"There is a displaced fracture of the {side} {rib} rib.",
                     f"Displaced {side} posterolateral {rib} rib fracture."),
                    (f"Displaced {side} {rib} rib fracture.", f"{side.capitalize()} rib fracture."))
        case Kind.ET_TUBE:
            return ((f"An endotracheal tube terminates {each.size:.1f} cm above the carina.",
                     f"Endotracheal tube tip is {each.size:.1f} cm above the carina."),
                    ("Endotracheal tube in appropriate position.",))
        case Kind.CENTRAL_LINE:
            return ((f"A {side} internal jugular central venous catheter terminates in the superior vena cava.",
                     f"{side.capitalize()} central venous line with its tip in the SVC."), ())
        case Kind.FEEDING_TUBE:
            return (("A nasogastric tube courses below the diaphragm with its tip in the stomach.",
                     "Enteric tube with its tip in the stomach."), ())
        case Kind.PACEMAKER:
            return ((f"A {side} chest wall dual-lead pacemaker is in place.",
                     f"{side.capitalize()} sided pacemaker with leads in the right atrium and right ventricle."), ())
