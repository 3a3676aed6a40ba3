"""Sentences of every rule class, written for these tests, with the labels that they must get."""

import pytest

from encoders.base import FINDING_NAMES
from encoders.findings import label

CODES = dict(
    zip(
        ("NF", "EC", "CM", "LO", "LL", "ED", "CO", "PN", "AT", "PX", "PE", "PO", "FX", "SD"), FINDING_NAMES, strict=True
    )
)

SENTENCES = {
    "negation before": """
        No pneumothorax is seen. => PX0
        There is no pneumothorax or pleural effusion. => PX0 PE0
        No focal consolidation, large pleural effusion, or pneumothorax. => CO0 PE0 PX0
        Neither pneumothorax nor effusion. => PX0 PE0
        Negative for pneumonia. => PN0
        Absence of pleural effusion. => PE0
        The lungs are clear without effusion. => PE0
        Lungs are clear of infiltrate or mass. => LO0 LL0
        Both lungs are free of focal airspace disease. => LO0
        Lungs are expanded and clear airspace disease. => LO0
        No convincing evidence of pneumonia. => PN0
        No XXXX of a pleural effusion. => PE0
        No abnormal opacities => LO0
        No new consolidation. => CO0
        No overt pulmonary edema. => ED0
        No residual pneumothorax. => PX0
        No pericardial or pleural effusion. => PE0
        There is no effusion or focal opacity to suggest pneumonia. => PE0 LO0 PN0
        No findings to suggest edema. => ED0
        Lungs are clear, no effusions or pneumothoraces. => PE0 PX0
        Resolution of the left effusion. => PE0
    """,
    "negation after": """
        Pneumothorax or effusion is not identified. => PX0 PE0
        Pneumothorax, effusion and consolidation are not identified. => PX0 PE0 CO0
        Pleural effusion is no longer seen. => PE0
        Effusion has been ruled out. => PE0
        Superimposed pneumonia is unlikely. => PN0
        Right lower lobe opacity has nearly resolved. => LO0
        The right pneumothorax has almost completely resolved. => PX0
        Infiltrate has cleared. => LO0
        The effusion described before is not seen on this exam. => PE0
        Effusions, resolved. => PE0
    """,
    "end of a negation": """
        No pneumothorax, small right effusion. => PX0 PE1
        No pneumothorax and small right effusion. => PX0 PE1
        No pneumothorax with small right effusion. => PX0 PE1
        No evidence of pulmonary edema, but there is a small left effusion. => ED0 PE1
        There is no pneumothorax or pleural effusion, although mild pulmonary edema persists. => PX0 PE0 ED1
        No definite focal consolidation is seen, although a subtle opacity at the right base is noted. => CO0 LO1
        There is no focal consolidation, effusion, or pneumothorax, and the heart is enlarged. => CO0 PE0 PX0 CM1
        Right effusion without pneumothorax. => PE1 PX0
        Stable cardiomegaly, no effusion. => CM1 PE0
        Left basilar atelectasis without infiltrate. => AT1 LO0
        The pulmonary edema is unchanged and no new consolidation is seen. => ED1 CO0
        No effusion, large left pneumothorax. => PE0 PX1
        No pneumothorax, new left lower lobe opacity. => PX0 LO1
        No effusion, severe cardiomegaly. => PE0 CM1
        No acute fracture, several old right rib fractures. => FX1
        No edema, atelectasis at the right base. => ED0 AT1
        Heart size normal, no edema, nodule in the left lower lobe. => CM0 ED0 LL1
        No effusion and pneumothorax persists. => PE0 PX1
        No consolidation and effusions are larger. => CO0 PE1
        No pneumothorax, effusions and atelectasis are unchanged. => PX0 PE1 AT1
        No effusion, edema has worsened. => PE0 ED1
        No effusion, feeding tube in good position. => PE0 SD1
        No effusion, tracheal tube 4 cm above the carina. => PE0 SD1
        No pneumonia, mild bibasilar scarring or atelectasis. => PN0 AT1
        No pneumothorax status post left subclavian line placement. => PX0 SD1
        No pneumothorax post chest tube placement. => PX0 SD1
        No consolidation in this patient with known edema. => CO0 ED1
        No effusion given cardiomegaly. => PE0 CM1
        No effusion adjacent to the rib fractures. => PE0 FX1
        No effusion - cardiomegaly - basilar atelectasis => PE0 CM1 AT1
        No effusion / mild edema : small right pneumothorax => PE0 ED1 PX1
        No effusion, possible atelectasis or scarring at the base. => PE0 AT-1
    """,
    "a negated list": """
        No pneumothorax, effusion, or focal opacity. => PX0 PE0 LO0
        No large pneumothorax, effusion. => PX0 PE0
        No consolidation, large effusion or pneumothorax => CO0 PE0 PX0
        No consolidation, small effusion, pneumothorax, or mass. => CO0 PE0 PX0 LL0
        No infiltrate, cardiomegaly. => LO0 CM0
        No effusion and pneumothorax are seen. => PE0 PX0
        No evidence of the following: pneumothorax, effusion. => PX0 PE0
        No post-procedural pneumothorax. => PX0
        No acute or post traumatic fracture. => FX0
        Resolution of the small pneumothorax and basilar opacities. => PX0 LO0
    """,
    "words that only look like negation": """
        No change in moderate right pleural effusion. => PE1
        No significant interval change in bibasilar opacities. => LO1
        Effusion has not increased. => PE1
        The effusion is not significantly changed. => PE1
        The known left upper lobe mass is not significantly changed. => LL1
        Not only effusion but also consolidation. => PE1 CO1
        Increased opacity not seen on the prior study. => LO1
        Opacity on the frontal view is not seen on the lateral. => LO1
        There is no longer any pneumothorax. => PX0
        Patchy non-segmental opacities. => LO1
        The lungs are not clear: bibasilar consolidation. => CO1
        No worse pulmonary edema. => ED1
        Near complete resolution of the right pneumothorax with minimal residual. => PX1
    """,
    "doubt": """
        Pneumonia cannot be excluded. => PN-1
        An early pneumonia is not excluded. => PN-1
        Cannot exclude small left effusion. => PE-1
        No pneumothorax. Pneumothorax cannot be excluded on supine film. => PX-1
        Edema difficult to entirely exclude. => ED-1
        Although no focal consolidation is seen, early pneumonia cannot be excluded. => CO0 PN-1
        No consolidation, early pneumonia cannot be excluded. => CO0 PN-1
        Question of a small effusion. => PE-1
        Questionable nodule. => LL-1
        There may be a trace effusion. => PE-1
        Findings could be due to atelectasis or aspiration. => AT-1
        Patchy opacity may represent atelectasis versus pneumonia. => LO1 AT-1 PN-1
        Opacities may be compatible with mild pulmonary edema. => LO1 ED-1
        Opacity in the right lower lobe, concerning for pneumonia. => LO1 PN-1
        Findings are suspicious for pneumonia. => PN-1
        Pneumonia is suspected. => PN-1
        Findings suggest edema. => ED-1
        Differential diagnosis includes pneumonia. => PN-1
        Pneumonia would be a consideration. => PN-1
        Consolidation is less likely. => CO-1
        Rule out pneumonia. => PN-1
        Compared with May 12, effusion has increased. => PE1
        Left lower lobe consolidation, compatible with pneumonia in the appropriate clinical setting. => CO1 PN-1
        This is unlikely to represent edema. => ED0
        Opacity unlikely to be edema. => LO1 ED0
        Doubt pneumothorax. => PX-1
        Edema is doubtful. => ED-1
        No doubt this is pneumonia. => PN1
        Nodule versus nipple shadow. => LL-1
    """,
    "probability claims": """
        Opacities likely reflect atelectasis. => LO1 AT1
        Pneumonia is likely. => PN1
        Presumed atelectasis. => AT1
        Probable small effusion. => PE1
        Diffuse interstitial opacities compatible with moderate pulmonary edema. => LO1 ED1
        Findings most suggestive of pulmonary edema. => ED1
        The right costophrenic angle is blunted, likely a small effusion. => PE1
        Linear opacities consistent with subsegmental atelectasis or scarring. => LO1 AT1
        Atelectasis and/or consolidation at the left base. => AT1 CO1
        Pleural thickening versus small effusion at the left base. => PO1 PE1
        Basilar opacity, XXXX atelectasis. => LO1 AT1
    """,
    "history, wishes, advice": """
        Evaluate for pneumonia. =>
        History of pneumonia and rib fractures. =>
        If there is concern for rib fracture, dedicated views can be obtained. =>
        Note that fractures may not be visible. =>
        Follow-up to resolution to exclude underlying mass. =>
        CT is more sensitive for detecting nodules. =>
        Repeat film after treatment of pneumonia. =>
        Correlate clinically for pneumonia. =>
        Patient with history of effusion has a persistent left basilar opacity. => LO1
    """,
    "heart": """
        The heart is mildly enlarged. => CM1
        Heart size remains slightly large. => CM1
        Moderate to severe cardiomegaly is unchanged. => CM1
        Borderline cardiomegaly. => CM1
        Unchanged borderline size of the heart. => CM1
        The heart is not enlarged. => CM0
        Heart size is top normal. => CM0
        Heart size is upper limits of normal. => CM0
        Heart: Normal in size. => CM0
        Heart is normal in size with prominent epicardial fat pad. => CM0
        Heart size is within normal limits and lungs are clear. => CM0
        Heart size is difficult to assess. =>
        Low lung volumes accentuate the cardiac silhouette. =>
        The cardiac silhouette is enlarged. => EC1 CM-1
        Unchanged enlargement of the cardiac silhouette. => EC1 CM-1
        Cardiac silhouette is unchanged and remains mildly enlarged. => EC1 CM-1
        The cardiac silhouette is normal in size. => CM0 EC0
        Heart size, mediastinal contour, and pulmonary vascularity are within normal limits. => CM0 EC0
        The cardiac, mediastinal and hilar contours are normal. => EC0 CM0
        Increased heart size. => CM1
        Increased heart rate. =>
        Dilated heart. => CM1
        Heart size is stable and enlarged. => CM1
        Heart size unchanged, mildly enlarged. => CM1
        Heart is stable and prominent hilar vessels are seen. =>
        The cardiothoracic ratio is increased. => CM1
        Cardiac silhouette is stable and enlarged. => EC1 CM-1
    """,
    "mediastinum": """
        Widened superior mediastinum. => EC1
        The mediastinum appears widened. => EC1
        Mild prominence of the superior mediastinum. => EC1
        The mediastinum is not widened. => EC0
        No mediastinal widening. => EC0
        The mediastinum is stable. =>
        Enlarged mediastinal lymph nodes. =>
        Prominent hilar contours. =>
        The mediastinal contour is unchanged and widened. => EC1
        Mediastinum is stable and prominent pulmonary arteries. =>
    """,
    "lungs": """
        Air-space disease at the left base. => LO1
        Hazy opacity at the left base. => LO1
        The right lower lobe is totally opaque. => LO1
        Collapse of the left lower lobe. => AT1
        Vertebral body collapse. =>
        Improving right lower lobe pneumonia. => PN1
        Peribronchial cuffing. =>
        CHF with interstitial edema. => ED1
        Mild vascular congestion without overt edema. => ED0
        1.5 cm nodule in the left upper lobe. => LL1
        Masslike opacity in the right apex. => LO1 LL1
        Nodular opacity in the left base. => LO1 LL-1
        Calcified granuloma in the right lung. =>
        Breast mass on the right. =>
        Lytic lesion in the left humerus. =>
        Mass effect on the trachea. =>
        Bone density is decreased. =>
        The right upper lobe is collapsed. => AT1
        LUL collapse. => AT1
        No collapse or mass. => AT0 LL0
        Collapse of the T9 vertebral body. =>
        Right middle lobe volume loss. =>
        LLL PNA. => PN1
        Small right PTX. => PX1
    """,
    "pleura": """
        Small bilateral pleural effusions, left greater than right, have increased. => PE1
        Fluid in the minor fissure. => PE1
        No pleural fluid. => PE0
        Pericardial effusion. =>
        Hydropneumothorax on the left. => PX1 PE1
        Small apical pleural air collection. => PX1
        Stable right apical pleural capping. => PO1
        No pleural plaques. => PO0
        Biapical pleural scarring. => PO-1
        Densities compatible with pleural-parenchymal scarring. => LO1 PO-1
        Pleural effusion: Small left. => PE1
        Pneumothorax: none. => PX0
        Pneumothorax: No. => PX0
        Blunting of the right costophrenic angle. =>
    """,
    "bones": """
        Old healed left rib fractures. => FX1
        Compression fracture of T12, age indeterminate. => FX1
        No acute displaced fractures are seen. Old left sixth rib fracture. => FX1
        There are no fractures or dislocations. => FX0
        The sternotomy wires are fractured. =>
        Hand. Fracture through the waist of the scaphoid. =>
        The lateral screw of the clavicular plate is fractured. =>
        Fracture of the most lateral fixation screw. =>
        Compression deformity of L2, age indeterminate. =>
    """,
    "devices": """
        ET tube terminates 4 cm above the carina. => SD1
        Right internal jugular central venous catheter tip in the mid SVC, without pneumothorax. => SD1 PX0
        Left-sided dual-chamber pacemaker with leads in the right atrium and right ventricle. => SD1
        Port-A-Cath terminates in the low SVC. => SD1
        Right chest XXXX with tip projecting over the lower SVC. => SD1
        Tiny left apical pneumothorax, with chest tube in place. => PX1 SD1
        Aortic valve replacement. => SD1
        Overlying EKG leads. => SD1
        The lines and tubes are unchanged. => SD1
        Median sternotomy wires are intact. =>
        Surgical clips in the right axilla. =>
        No pleural line is seen. =>
        Right PICC has been removed. => SD0
        Interval removal of the endotracheal tube and right subclavian catheter. => SD0
        Interval chest tube removal with no pneumothorax. => SD0 PX0
        The tip of the central line is not visualized. => SD1
        The nasogastric tube is not well seen. => SD1
        The nasogastric tube is no longer seen. => SD0
        Lumbar plate and screws. => SD1
        ECG leads overlie the heart. => SD1
    """,
    "longer dictation": """
        Bilateral nodular opacities that most likely represent nipple shadows. => LO1 LL-1
        A moderate left pneumothorax is unchanged, with no evidence of tension. => PX1
        No appreciable pneumothorax following removal of the left chest tube. => PX0 SD0
        As compared to the previous radiograph, the patient has been extubated. The nasogastric tube was removed. => SD0
        Monitoring and support devices are in unchanged position. => SD1
        The size of the cardiac silhouette is at the upper range of normal. => CM0 EC0
        There is mild to moderate enlargement of the cardiac silhouette. => EC1 CM-1
        Increased retrocardiac density which may reflect atelectasis, infection or a combination thereof. => LO1 AT-1
        Retrocardiac opacification is consistent with volume loss in the lower lobe and effusion. => LO1 PE1
        There is hazy opacification of the right hemithorax consistent with layering pleural effusion. => LO1 PE1
        Tip of the endotracheal tube projects 3 cm above the carina. => SD1
        Mild loss of height of a midthoracic vertebral body, likely a compression fracture, unchanged. => FX1
        Wedge deformity of L1. =>
        No evidence of rib fracture; if clinical suspicion remains, dedicated rib series is advised. => FX0
        Bibasilar opacities, likely atelectasis, though infection is not excluded. => LO1 AT1
        Right basilar opacity could represent atelectasis but pneumonia is not excluded. => LO1 AT-1 PN-1
        Interval resolution of previously seen pulmonary edema. => ED0
        Interval improvement in pulmonary edema. => ED1
        No larger pleural effusions. => PE0
        Blunting of the right costophrenic sulcus may be due to pleural thickening or a small effusion. => PO-1 PE-1
        A rounded mass in the left upper lobe is worrisome for malignancy. => LL1
        Deep sulcus sign raises concern for pneumothorax. => PX-1
        No supine evidence of pneumothorax. => PX0
        There is a calcified left lower lobe nodule. => LL1
        Nipple shadows versus pulmonary nodules. => LL-1
        Bilateral interstitial infiltrates, representing edema or atypical pneumonia. => LO1 ED1 PN1
        Left pleural effusion has resolved, and left basilar atelectasis has improved. => PE0 AT1
        No change in left effusion or right atelectasis. => PE1 AT1
        Right pleural effusion with overlying atelectasis. => PE1 AT1
        Right middle lobe consolidation. Recommend follow-up to ensure resolution of pneumonia. => CO1
        Trace left effusion not excluded. => PE-1
        The heart size is exaggerated by AP technique. =>
    """,
}
ROWS = [
    pytest.param(*(part.strip() for part in line.split("=>")), id=f"{rule}: {line.strip()}")
    for rule, lines in SENTENCES.items()
    for line in lines.strip().splitlines()
]


def found(text: str, impression: str = "") -> set[str]:
    """Return the labels of a report as codes, without the derived No Finding."""
    labels = label(text, impression)
    return {code + str(int(labels[name])) for code, name in CODES.items() if code != "NF" and labels[name] is not None}


@pytest.mark.parametrize(("sentence", "expected"), ROWS)
def test_sentence_is_labelled_as_a_radiologist_reads_it(sentence, expected):
    assert found(sentence) == set(expected.split())


@pytest.mark.parametrize(("sentence", "expected"), ROWS)
def test_sentence_means_the_same_in_the_impression_in_capitals_and_across_lines(sentence, expected):
    assert found("", sentence.upper().replace(" ", "\n", 3)) == set(expected.split())
