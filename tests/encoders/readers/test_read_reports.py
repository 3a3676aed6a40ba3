"""Structured reports, CDA and PDF documents, rejection notes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from encoders.base import RejectionNote, Report, ReportState, Unindexed, UnreadableInstance
from encoders.readers import read_instance
from encoders.readers.report_common import parse_datetime
from encoders.readers.sections import split_sections

BASIC, ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D, EXTENSIBLE = (
    f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35)
)
KOS = "1.2.840.10008.5.1.4.1.1.88.59"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
CDA = "1.2.840.10008.5.1.4.1.1.104.2"


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def item(value_type: str, name: Sequence | None = None, relationship: str = "CONTAINS", **attributes) -> Dataset:
    dataset = Dataset()
    dataset.RelationshipType, dataset.ValueType = relationship, value_type
    if name is not None:
        dataset.ConceptNameCodeSequence = name
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def text(value: str, name: Sequence | None = None) -> Dataset:
    return item("TEXT", name, TextValue=value)


def container(name: Sequence, *children: Dataset) -> Dataset:
    return item("CONTAINER", name, ContinuityOfContent="SEPARATE", ContentSequence=Sequence(children))


@pytest.fixture
def report_of(object_of, stored):
    """Return a function that makes, stores and reads an SR with these content items."""

    def read(*children: Dataset, sop_class_uid: str = BASIC, **attributes) -> Report:
        given = {
            "Modality": "SR", "ValueType": "CONTAINER", "StudyDescription": "XR CHEST 2 VIEWS",
            "ConceptNameCodeSequence": code("18748-4", "LN", "Diagnostic Imaging Report"),
            "CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED",
            "ContentDate": "20260301", "ContentTime": "101500", **attributes,
        }
        dataset = object_of(sop_class_uid, ContentSequence=Sequence(children), **given)
        content = read_instance(stored(dataset), 64).content
        assert isinstance(content, Report)
        return content

    return read


LOINC = (("59776-5", "LN", "Findings"), ("19005-8", "LN", "Impressions"), ("18785-6", "LN", "Indications"))
DCM = (("121070", "DCM", "Findings"), ("121072", "DCM", "Impressions"), ("121060", "DCM", "History"))


@pytest.mark.parametrize("codes", [LOINC, DCM], ids=["LOINC", "DCM"])
@pytest.mark.parametrize("sop_class_uid", [BASIC, ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D, EXTENSIBLE])
def test_sections_are_found_by_their_codes(codes, sop_class_uid, report_of):
    findings, impression, indication = (code(*names) for names in codes)
    report = report_of(
        container(indication, text("Cough for two weeks.")),
        container(findings, text("The heart is enlarged.", code("121071", "DCM", "Finding")),
                  text("Lungs are clear.", code("121071", "DCM", "Finding"))),
        container(impression, text("Cardiomegaly.", code("121073", "DCM", "Impression"))),
        sop_class_uid=sop_class_uid,
    )
    assert report.findings == "The heart is enlarged.\nLungs are clear."
    assert report.impression == "Cardiomegaly."
    assert report.indication == "Cough for two weeks."
    assert report.text.index("Cough") < report.text.index("enlarged") < report.text.index("Cardiomegaly")
    assert report.gate_reason is None


def test_text_items_that_are_sections_themselves_are_understood(report_of):
    report = report_of(text("No effusion.", code("121071", "DCM", "Finding")),
                       text("Normal chest.", code("121077", "DCM", "Conclusion")))
    assert (report.findings, report.impression) == ("No effusion.", "Normal chest.")


def test_local_codes_are_understood_by_their_meaning(report_of):
    report = report_of(container(code("B1", "99LOCAL", "Befund"), text("Herz normal groß, kein Erguss.")),
                       container(code("B2", "99LOCAL", "Beurteilung"), text("Unauffällig.")))
    assert (report.findings, report.impression) == ("Herz normal groß, kein Erguss.", "Unauffällig.")


def test_one_text_with_headings_is_split(report_of):
    whole = ("HISTORY: Dyspnea.\nTECHNIQUE: PA and lateral.\nFINDINGS: Small left effusion.\nHeart normal.\n"
             "IMPRESSION:\n1. Left effusion.")
    report = report_of(text(whole, code("121071", "DCM", "Finding")))
    assert report.findings == "Small left effusion.\nHeart normal."
    assert report.impression == "1. Left effusion."
    assert report.indication == "Dyspnea."


@pytest.mark.parametrize(
    ("whole", "findings", "impression", "indication"),
    [
        ("INDICATION: cough FINDINGS: Clear lungs. IMPRESSION: Normal.", "Clear lungs.", "Normal.", "cough"),
        ("Findings:\nClear.\n\nImpression:\nNormal.", "Clear.", "Normal.", ""),
        ("FINDINGS\nClear lungs.\nCONCLUSION\nNormal.", "Clear lungs.", "Normal.", ""),
        ("Klinische Angaben: Husten\nBefund: Kein Erguss.\nBeurteilung: Normal.", "Kein Erguss.", "Normal.", "Husten"),
        ("Renseignements cliniques : toux\nRésultats : Pas d'épanchement.\nConclusion : Normal.",
         "Pas d'épanchement.", "Normal.", "toux"),
        ("Motivo: tos\nHallazgos: Sin derrame.\nImpresión diagnóstica: Normal.", "Sin derrame.", "Normal.", "tos"),
        ("Indicação: tosse\nAchados: Sem derrame.\nConclusão: Normal.", "Sem derrame.", "Normal.", "tosse"),
        ("Klinische gegevens: hoest\nVerslag: Geen vocht.\nConclusie: Normaal.", "Geen vocht.", "Normaal.", "hoest"),
        ("Clear lungs, no effusion.", "Clear lungs, no effusion.", "", ""),
        ("IMPRESSION: Normal. COMPARISON: None.", "", "Normal.", ""),
        ("Lungs: clear\nHeart: normal", "Lungs: clear\nHeart: normal", "", ""),
    ],
)
def test_headings_of_many_languages_split_a_text(whole, findings, impression, indication):
    sections = split_sections(whole)
    assert (sections.findings, sections.impression, sections.indication) == (findings, impression, indication)


@pytest.mark.parametrize(
    ("whole", "findings", "impression", "indication"),
    [
        ("FINAL REPORT\n REASON FOR EXAMINATION:  After surgery.\n\n AP view was reviewed.\n\n Heart size is normal.\n",
         "AP view was reviewed.\n\nHeart size is normal.", "", "After surgery."),
        ("FINAL REPORT\n INDICATION: Cough.\n\n COMPARISON:  ___.\n \n The lungs are clear.\n\n IMPRESSION:  Normal.\n",
         "The lungs are clear.", "Normal.", "Cough."),
        ("FINAL REPORT\n CHEST RADIOGRAPHS\n\n HISTORY:  Pain.\n\n TECHNIQUE:  PA.\n\n FINDINGS:  Clear.\n\n "
         "Heart normal.\n\n IMPRESSION:  Normal.\n\n RECOMMENDATION(S):  CT.\n\n NOTIFICATION:  By phone.\n",
         "Clear.\n\nHeart normal.", "Normal.", "Pain."),
        ("WET READ: ___ 9:05 PM\n no effusion.\n ____\n FINAL REPORT\n AP CHEST, 8:12 A.M., ___\n\n Small effusion.\n",
         "Small effusion.", "", ""),
        ("FINAL REPORT\n CHEST, PA AND LATERAL\n\n INDICATION:  Cough.\n\n FINDINGS/IMPRESSION:  Clear.\n",
         "Clear.", "", "Cough."),
        ("FINAL REPORT\n HEART NORMAL.\n\n NO EFFUSION.\n", "HEART NORMAL.\n\nNO EFFUSION.", "", ""),
        ("FINDINGS: Clear.\nIMPRESSION: Normal.\nFINAL REPORT\nDr. N.", "Clear.", "Normal.\nFINAL REPORT\nDr. N.", ""),
        ("TECHNIQUE: PA.\nCOMPARISON: The effusion of ___ is gone.", "PA.\nThe effusion of ___ is gone.", "", ""),
        ("HISTORY: Pain.\n\nFINDINGS: Clear.\n\nTECHNIQUE: PA.\n\nSecond line.", "Clear.", "", "Pain."),
    ],
)
def test_reports_as_mimic_cxr_has_them_are_split_without_a_findings_heading(whole, findings, impression, indication):
    sections = split_sections(whole)
    assert (sections.findings, sections.impression, sections.indication) == (findings, impression, indication)


def test_measurements_and_codes_are_told_with_their_names(report_of):
    number = Dataset()
    number.NumericValue, number.MeasurementUnitsCodeSequence = "0.62", code("1", "UCUM", "no units")
    ratio = item("NUM", code("CTR", "99L", "Cardiothoracic ratio"), MeasuredValueSequence=Sequence([number]))
    coded = item("CODE", code("121071", "DCM", "Finding"),
                 ConceptCodeSequence=code("8186001", "SCT", "Cardiomegaly"))
    report = report_of(container(code(*LOINC[0]), text("Heart is too large."), ratio, coded))
    assert report.findings == "Heart is too large.\nCardiothoracic ratio: 0.62\nCardiomegaly"


def test_observers_and_tracking_names_are_no_text_of_the_report(report_of):
    report = report_of(
        item("PNAME", code("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName="Doe^Jane"),
        item("TEXT", code("121012", "DCM", "Device Observer Name"), "HAS OBS CONTEXT", TextValue="Robot seven"),
        text("lesion seventeen", code("112039", "DCM", "Tracking Identifier")),
        container(code(*LOINC[0]), text("Lungs are clear.")),
    )
    for word in ("Doe", "Robot", "seventeen"):
        assert word not in report.text


def test_measurements_without_narrative_are_gated(report_of):
    report = report_of(text("lesion 1", code("112039", "DCM", "Tracking Identifier")))
    assert report.gate_reason == "no narrative text"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"StudyDescription": "XR KNEE LEFT"}, "not a chest report"),
        ({"StudyDescription": "CT THORAX"}, "report of another modality"),
        ({"StudyDescription": "MRT Schädel"}, "report of another modality"),
        ({"StudyDescription": ""}, None),
    ],
)
def test_reports_on_something_else_are_gated_by_their_header(attributes, reason, report_of):
    assert report_of(container(code(*LOINC[0]), text("Nothing to see here.")), **attributes).gate_reason == reason


@pytest.mark.parametrize(
    ("words", "gated"),
    [
        ("The ligaments of the joint are intact, there is a large effusion of the capsule and a fracture.", True),
        ("The meniscus shows a complete tear with displaced fragment, and the ligament is thick and frayed.", True),
        ("Herz nicht vergrößert, kein Nachweis einer Stauung, keine entzündlichen Veränderungen heute.", False),
    ],
)
def test_a_long_text_without_any_word_of_the_chest_is_gated_when_its_header_is_silent(words, gated, report_of):
    report = report_of(container(code(*LOINC[0]), text(words)), StudyDescription="")
    assert (report.gate_reason is not None) == gated


def test_the_language_of_content_is_read(report_of):
    language = item("CODE", code("121049", "DCM", "Language of Content Item and Descendants"), "HAS CONCEPT MOD",
                    ConceptCodeSequence=code("de-DE", "RFC5646", "German"))
    report = report_of(language, container(code(*LOINC[0]), text("Lunge frei belüftet.")))
    assert report.language == "de-DE"
    assert "German" not in report.text


@pytest.mark.parametrize(
    ("flags", "state", "verified"),
    [
        ({}, ReportState.FINAL, False),
        ({"VerificationFlag": "VERIFIED"}, ReportState.FINAL, True),
        ({"PreliminaryFlag": "PRELIMINARY"}, ReportState.PRELIMINARY, False),
        ({"PreliminaryFlag": "FINAL", "VerificationFlag": "VERIFIED"}, ReportState.FINAL, True),
        ({"CompletionFlag": "PARTIAL"}, ReportState.PRELIMINARY, False),
    ],
    ids=str,
)
def test_completion_verification_and_preliminary_flag_make_the_state(flags, state, verified, report_of):
    report = report_of(container(code(*LOINC[0]), text("Lungs are clear.")), **flags)
    assert (report.state, report.verified) == (state, verified)


def test_times_carry_their_zone_and_the_latest_verification_counts(report_of):
    observers = []
    for moment in ("20260301120000+0100", "20260301113000.5-0100"):
        observer = Dataset()
        observer.VerificationDateTime = moment
        observers.append(observer)
    report = report_of(container(code(*LOINC[0]), text("Lungs are clear.")), TimezoneOffsetFromUTC="+0200",
                       VerifyingObserverSequence=Sequence(observers))
    assert report.content_time == datetime(2026, 3, 1, 8, 15, tzinfo=UTC)
    assert report.verification_time == datetime(2026, 3, 1, 12, 30, 0, 500000, tzinfo=UTC)


@pytest.mark.parametrize("value", ["", "2026", "20261301", "202603012460", "garbage", None])
def test_a_time_that_is_none_is_none(value):
    assert parse_datetime(value) is None


def test_a_time_without_any_zone_is_aware_all_the_same():
    moment = parse_datetime("20260301101500")
    assert moment is not None
    assert moment.tzinfo is not None


def evidence(study: str, *instances: str) -> Dataset:
    references = []
    for uid in instances:
        reference = Dataset()
        reference.ReferencedSOPInstanceUID = uid
        references.append(reference)
    series = Dataset()
    series.ReferencedSOPSequence = Sequence(references)
    entry = Dataset()
    entry.StudyInstanceUID = study
    entry.ReferencedSeriesSequence = Sequence([series])
    return entry


def test_referenced_studies_and_instances_come_from_the_evidence(report_of):
    report = report_of(container(code(*LOINC[0]), text("Lungs are clear.")),
                       CurrentRequestedProcedureEvidenceSequence=Sequence([evidence("1.2.3", "1.2.3.1", "1.2.3.2")]))
    assert report.referenced_study_uids == ("1.2.3",)
    assert report.referenced_sop_uids == ("1.2.3.1", "1.2.3.2")


def test_a_tree_without_end_or_bottom_is_read_as_far_as_people_write(report_of):
    deep = text("bottom")
    for _ in range(150):
        deep = container(code("X", "99L", "level"), deep)
    loop = item("", None, "INFERRED FROM", ReferencedContentItemIdentifier=[1, 1])
    report = report_of(container(code(*LOINC[0]), text("Lungs are clear."), loop), deep)
    assert report.findings == "Lungs are clear."
    assert "bottom" not in report.text


def test_latin1_text_with_the_wrong_character_set_is_kept(report_of, object_of, stored):
    dataset = object_of(BASIC, Modality="SR", ValueType="CONTAINER", StudyDescription="Thorax",
                        ContentSequence=Sequence([text("Lunge unauffxllig beurteilt.", code(*LOINC[0]))]))
    path = stored(dataset)
    path.write_bytes(path.read_bytes().replace(b"unauffxllig", "unauffällig".encode("latin-1")))
    assert read_instance(path, 64).content.findings == "Lunge unauffällig beurteilt."


# ------------------------------------------------------------------------------------------------------------- CDA

CDA_DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3">
  <effectiveTime value="20260301101500+0100"/><languageCode code="en-US"/>
  <legalAuthenticator><time value="20260301120000+0100"/><signatureCode code="S"/></legalAuthenticator>
  <component><structuredBody>
    <component><section><code code="18785-6" codeSystem="2.16.840.1.113883.6.1"/><title>Indication</title>
      <text>Fever.</text></section></component>
    <component><section><code code="59776-5" codeSystem="2.16.840.1.113883.6.1"/><title>Findings</title>
      <text><paragraph>The heart is <content>enlarged</content>.</paragraph><list><item>No effusion</item></list></text>
      <component><section><title>Pleura</title><text>No pneumothorax.</text></section></component></section></component>
    <component><section><title>Beurteilung</title><text>Cardiomegaly<br/>only.</text></section></component>
  </structuredBody></component>
</ClinicalDocument>"""


@pytest.fixture
def document_of(object_of, stored):
    def read(data: bytes, sop_class_uid: str = CDA, **attributes) -> Report:
        given = {"Modality": "DOC", "StudyDescription": "Chest", **attributes}
        dataset = object_of(sop_class_uid, **given)
        dataset.EncapsulatedDocumentLength = len(data)
        dataset.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
        return read_instance(stored(dataset), 64).content

    return read


def test_a_cda_report_is_read_by_section_codes_and_titles(document_of):
    report = document_of(CDA_DOCUMENT.encode())
    assert report.findings == "The heart is enlarged.\nNo effusion\nNo pneumothorax."
    assert report.impression == "Cardiomegaly\nonly."
    assert report.indication == "Fever."
    assert report.language == "en-US"
    assert report.verified
    assert report.content_time == datetime(2026, 3, 1, 9, 15, tzinfo=UTC)
    assert report.verification_time == datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
    assert report.gate_reason is None


def test_a_cda_with_a_plain_body_is_split_by_headings(document_of):
    body = base64.b64encode(b"FINDINGS: Clear lungs.\nIMPRESSION: Normal.").decode()
    report = document_of(
        f"""<ClinicalDocument xmlns="urn:hl7-org:v3"><component><nonXMLBody>
        <text mediaType="text/plain" representation="B64">{body}</text></nonXMLBody></component></ClinicalDocument>
        """.encode()
    )
    assert (report.findings, report.impression) == ("Clear lungs.", "Normal.")


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
STRANGER = '<!DOCTYPE x SYSTEM "file:///etc/hostname">'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (CDA_DOCUMENT.replace("<ClinicalDocument", BOMB + "<ClinicalDocument").encode(), "document type"),
        (CDA_DOCUMENT.replace("<ClinicalDocument", STRANGER + "<ClinicalDocument").encode(), "document type"),
        (CDA_DOCUMENT.replace("UTF-8", "UTF-16").replace("<Cl", BOMB + "<Cl").encode("utf-16"), "document type"),
        (CDA_DOCUMENT.encode()[:300], "well-formed"),
        (b"<html><body>report</body></html>", "no CDA"),
        (b"", "no Encapsulated Document"),
    ],
)
def test_a_cda_that_is_dangerous_or_none_is_refused(data, reason, document_of):
    with pytest.raises(UnreadableInstance, match=reason):
        document_of(data)


# ------------------------------------------------------------------------------------------------------------- PDF


def make_pdf(*lines: str) -> bytes:
    """Return a PDF 1.4 file of one page with these lines, written by hand."""
    drawn = "BT /F1 12 Tf 50 750 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{at:010d} 00000 n \n" for at in offsets)
    return data + f"{table}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF".encode()


def test_a_pdf_report_is_read_by_its_headings(document_of):
    report = document_of(make_pdf("FINDINGS: Clear lungs.", "IMPRESSION: Normal chest."), PDF)
    assert (report.findings, report.impression) == ("Clear lungs.", "Normal chest.")
    assert report.gate_reason is None


def test_a_pdf_without_text_is_gated(document_of):
    assert document_of(make_pdf(), PDF).gate_reason == "no narrative text"


@pytest.mark.parametrize("data", [b"not a pdf", b"%PDF-1.4\n%%EOF", make_pdf("x y z")[:150]])
def test_a_damaged_pdf_is_refused(data, document_of):
    with pytest.raises(UnreadableInstance, match="PDF"):
        document_of(data, PDF)


# ------------------------------------------------------------------------------------------------- key objects


@pytest.mark.parametrize("value", ["113001", "113037", "113038", "113039"])
def test_a_rejection_note_names_what_it_rejects(value, object_of, stored):
    dataset = object_of(KOS, ConceptNameCodeSequence=code(value, "DCM", "Rejected"),
                        CurrentRequestedProcedureEvidenceSequence=Sequence([evidence("1.2", "1.2.1", "1.2.2")]))
    content = read_instance(stored(dataset), 64).content
    assert content == RejectionNote(value, ("1.2.1", "1.2.2"), ())


def test_other_key_objects_reject_nothing(object_of, stored):
    for name in (code("113000", "DCM", "Of Interest"), code("113001", "99LOCAL", "Favourite")):
        content = read_instance(stored(object_of(KOS, ConceptNameCodeSequence=name)), 64).content
        assert isinstance(content, Unindexed)


def test_presentation_states_are_kept_unindexed(object_of, stored):
    assert isinstance(read_instance(stored(object_of("1.2.840.10008.5.1.4.1.1.11.1")), 64).content, Unindexed)


def test_other_sop_classes_are_named_as_not_read(object_of, stored):
    content = read_instance(stored(object_of("1.2.840.10008.5.1.4.1.1.2")), 64).content
    assert content == Unindexed("SOP class CT Image Storage is not read")
