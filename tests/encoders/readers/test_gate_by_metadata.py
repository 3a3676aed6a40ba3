"""What headers say for and against indexing, and about the view."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from encoders.base import Radiograph
from encoders.readers import read_instance
from encoders.readers.gate import exposure_key_of, gate_reason_of, view_of

SC = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def header(object_of):
    def make(**attributes) -> Dataset:
        given = {"Modality": "DX", "Rows": 2000, "Columns": 2000, **attributes}
        sop_class_uid = given.pop("SOPClassUID", "1.2.840.10008.5.1.4.1.1.1.1")
        return object_of(sop_class_uid, **{k: v for k, v in given.items() if v is not None})

    return make


def code(meaning: str, value: str = "X", scheme: str = "SCT") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


CHESTS = [
    {"BodyPartExamined": "CHEST"},
    {"BodyPartExamined": "RIBCAGE"},
    {"AnatomicRegionSequence": code("Thoracic structure")},
    {"StudyDescription": "Röntgen-Thorax p.a./seitl."},
    {"StudyDescription": "Radiographie du thorax de face"},
    {"StudyDescription": "RX tórax PA y lateral"},
    {"StudyDescription": "胸部正面"},
    {"SeriesDescription": "CXR AP portable", "StudyDescription": "Trauma series pelvis"},
    {"StudyDescription": "Chest and abdomen, newborn"},
    {"SeriesDescription": "W Chest PA", "BodyPartExamined": "ABDOMEN"},
    {},
    {"StudyDescription": "XR 2 views"},
    {"SOPClassUID": SC, "Modality": "OT", "StudyDescription": "Chest"},
    {"SOPClassUID": SC, "Modality": "CR"},
    {"Modality": "RG"},
    {"PatientSpeciesDescription": "Homo sapiens"},
    {"ResponsiblePerson": "Parent^Of Child", "ResponsiblePersonRole": "MOTHER"},
    {"BurnedInAnnotation": "NO", "QualityControlImage": "NO"},
    {"ImageType": ["DERIVED", "SECONDARY"]},
]


@pytest.mark.parametrize("attributes", CHESTS, ids=str)
def test_a_chest_and_a_silent_header_pass(attributes, header):
    assert gate_reason_of(header(**attributes)) is None


KEPT_OUT = [
    ({"BodyPartExamined": "HAND"}, "body part"),
    ({"BodyPartExamined": "TSPINE"}, "body part"),
    ({"BodyPartExamined": "KNIE"}, "body part"),
    ({"AnatomicRegionSequence": code("Abdomen")}, "body part"),
    ({"StudyDescription": "Thoracic spine 2 views"}, "study description"),
    ({"StudyDescription": "Abdomen sans préparation"}, "study description"),
    ({"StudyDescription": "Rodilla derecha"}, "study description"),
    ({"StudyDescription": "RX Mão esquerda joelho"}, "study description"),
    ({"StudyDescription": "Linker enkel"}, "study description"),
    ({"SeriesDescription": "Fuß links", "StudyDescription": "Polytrauma Thorax"}, "series description"),
    ({"StudyDescription": "BÄCKEN FRONTAL"}, "study description"),
    ({"BodyPartExamined": "CHEST", "BurnedInAnnotation": "YES"}, "burned-in"),
    ({"BodyPartExamined": "CHEST", "QualityControlImage": "YES"}, "quality control"),
    ({"BodyPartExamined": "CHEST", "SeriesDescription": "Calibration"}, "quality control"),
    ({"BodyPartExamined": "CHEST", "ImageType": ["DERIVED", "SECONDARY", "DOSE"]}, "Image Type"),
    ({"BodyPartExamined": "CHEST", "PatientSpeciesDescription": "Canine"}, "veterinary"),
    ({"BodyPartExamined": "CHEST", "PatientSpeciesCodeSequence": code("Dog", "448771007")}, "veterinary"),
    ({"BodyPartExamined": "CHEST", "AcquisitionDeviceProcessingDescription": "CANINE LATERAL THORAX"}, "veterinary"),
    ({"BodyPartExamined": "CHEST", "ResponsiblePersonRole": "OWNER"}, "veterinary"),
    ({"BodyPartExamined": "CHEST", "Modality": "CT"}, "modality CT"),
    ({"BodyPartExamined": "CHEST", "Modality": "MG"}, "modality MG"),
    ({"BodyPartExamined": "CHEST", "Modality": None}, "modality missing"),
    ({"SOPClassUID": SC, "Modality": "OT"}, "secondary capture"),
    ({"SOPClassUID": SC, "Modality": "US", "StudyDescription": "Chest"}, "modality US"),
    ({"BodyPartExamined": "CHEST", "Rows": 32, "Columns": 32}, "32 x 32"),
]


@pytest.mark.parametrize(("attributes", "reason"), KEPT_OUT, ids=str)
def test_what_the_header_speaks_against_is_kept_out_with_the_reason(attributes, reason, header):
    assert reason in (gate_reason_of(header(**attributes)) or "passed")


def test_a_gated_image_is_read_all_the_same(phantom, image, stored):
    content = read_instance(stored(image(phantom, BodyPartExamined="FOOT")), 100).content
    assert isinstance(content, Radiograph)
    assert content.gate_reason == "not a chest: body part"
    assert content.pixels.shape == (125, 100)


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "PA"}, "frontal"),
        ({"ViewPosition": "AP"}, "frontal"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "lateral"),
        ({"ViewPosition": "LLO"}, "unknown"),
        ({"ViewPosition": "LLD"}, "frontal"),
        ({"ViewCodeSequence": code("postero-anterior")}, "frontal"),
        ({"ViewCodeSequence": code("left lateral")}, "lateral"),
        ({"SeriesDescription": "Thorax p.a."}, "frontal"),
        ({"SeriesDescription": "Thorax seitlich"}, "lateral"),
        ({"SeriesDescription": "tórax perfil"}, "lateral"),
        ({"StudyDescription": "Chest PA and lateral"}, "unknown"),
        ({"StudyDescription": "Chest PA"}, "frontal"),
        ({"PatientOrientation": ["L", "F"]}, "frontal"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"ViewPosition": "", "PatientOrientation": ""}, "unknown"),
        ({}, "unknown"),
    ],
    ids=str,
)
def test_the_view_is_read_from_what_the_header_has(attributes, view, header):
    assert view_of(header(**attributes)) == view


def test_raw_and_processed_image_of_one_exposure_share_a_key(header):
    raw = header(PresentationIntentType="FOR PROCESSING")
    source = Dataset()
    source.ReferencedSOPInstanceUID = raw.SOPInstanceUID
    made = header(PresentationIntentType="FOR PRESENTATION", SourceImageSequence=Sequence([source]))
    other = header(PresentationIntentType="FOR PROCESSING")
    assert exposure_key_of(raw) == exposure_key_of(made) is not None
    assert exposure_key_of(other) != exposure_key_of(raw)


def test_the_irradiation_event_is_the_first_choice_of_a_key(header):
    pair = [header(IrradiationEventUID="1.2.3.4", PresentationIntentType=f"FOR {kind}")
            for kind in ("PROCESSING", "PRESENTATION")]
    assert exposure_key_of(pair[0]) == exposure_key_of(pair[1]) == "event:1.2.3.4"


def test_without_a_hint_there_is_no_key(header):
    assert exposure_key_of(header()) is None
    assert exposure_key_of(header(AcquisitionDate="20260101", AcquisitionTime="1200")) is None


def test_for_processing_is_told_apart(phantom, image, stored):
    raw = image(phantom, PresentationIntentType="FOR PROCESSING", PixelIntensityRelationship="LIN")
    made = image(phantom, PresentationIntentType="FOR PRESENTATION")
    contents = [read_instance(stored(dataset), 100).content for dataset in (raw, made)]
    assert [content.for_presentation for content in contents] == [False, True]
    assert np.ptp(contents[0].pixels) > 0.9
