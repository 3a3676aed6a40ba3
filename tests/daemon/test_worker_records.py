"""What the worker makes of an object that was read: gates, views, findings, report states."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from daemon.reading import Read
from daemon.worker.records import NOT_CHEST, encode, report_text
from encoders.base import (
    FINDING_NAMES,
    ImageEncoding,
    InstanceHeader,
    Radiograph,
    ReadInstance,
    RejectionNote,
    Report,
    ReportEncoding,
    ReportState,
    ReportText,
    Unindexed,
)
from storage.base import InstanceState, SpooledInstance


class MeanEncoder:
    """A model that says what a picture's mean brightness tells: dark ones are no chest, bright ones are frontal."""

    fingerprint, model_id, dim, image_size, chest_threshold = "0" * 64, "mean-000000000000", 4, 32, 0.2

    def __init__(self):
        self.calls = []

    def encode_images(self, images):
        self.calls.append(len(images))
        means = np.array([image.mean() for image in images], np.float32)
        vectors = np.stack([np.cos(means), np.sin(means), 0 * means, 0 * means], 1)
        return ImageEncoding(vectors, np.repeat(means[:, None], 14, 1), means, means)

    def encode_reports(self, reports):
        self.calls.append([report.findings for report in reports])
        findings = np.full((len(reports), 14), np.nan, np.float32)
        findings[:, 2], findings[:, 5] = 1, -1
        return ReportEncoding(np.tile(np.float32([1, 0, 0, 0]), (len(reports), 1)), findings)


def read(content, number=1):
    spooled = SpooledInstance(
        number, Path("x.dcm"), "1.2", f"1.2.{number}", "1.2.840.10008.1.2.1", "ab" * 32, 10, "PACS", datetime.now(UTC)
    )
    return Read(spooled, ReadInstance(InstanceHeader("1.2", f"1.2.{number}", "1.3", "1.4", {}), content))


def image(brightness, **facts):
    return Radiograph(np.full((8, 8), brightness, np.float32), **{"view": "unknown", **facts})


def only(content, encoder=None):
    (record,) = encode([read(content)], encoder or MeanEncoder())
    return record


def test_a_chest_image_gets_its_vector_view_and_a_probability_for_each_finding():
    record = only(image(0.75))
    assert record.state is InstanceState.INDEXED
    assert record.embedding == pytest.approx([np.cos(0.75), np.sin(0.75), 0, 0])
    assert record.findings == pytest.approx(dict.fromkeys(FINDING_NAMES, 0.75))
    assert record.view == "frontal"


def test_the_headers_view_wins_over_the_pixels():
    assert only(image(0.75, view="lateral")).view == "lateral"
    assert only(image(0.3)).view == "lateral"


def test_pixels_that_do_not_look_like_a_chest_are_kept_out_with_the_reason():
    record = only(image(0.1))
    assert (record.state, record.reason, record.embedding) == (InstanceState.GATED, NOT_CHEST, None)


def test_what_the_header_keeps_out_is_not_encoded_at_all():
    encoder = MeanEncoder()
    record = only(image(0.9, gate_reason="body part HAND"), encoder)
    assert (record.state, record.reason, record.embedding) == (InstanceState.GATED, "body part HAND", None)
    assert encoder.calls == []


def test_a_batch_is_encoded_in_one_call_for_images_and_one_for_reports_in_order():
    encoder = MeanEncoder()
    batch = [read(image(0.5), 1), read(Report("effusion", ""), 2), read(image(0.9), 3), read(Report("clear", ""), 4)]
    records = encode(batch, encoder)
    assert encoder.calls == [2, ["effusion", "clear"]]
    assert [record.sop_instance_uid for record in records] == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert records[2].findings["Edema"] == pytest.approx(0.9)


def test_a_report_keeps_its_text_state_and_only_the_findings_it_mentions():
    record = only(Report("Heart large.", "CHF?", state=ReportState.PRELIMINARY, language="en", verified=False))
    assert record.state is InstanceState.INDEXED
    assert record.findings == {"Cardiomegaly": 1, "Edema": -1}
    assert (record.report.findings, record.report.state, record.report.language) == (
        "Heart large.", "PRELIMINARY", "en"
    )  # fmt: skip
    assert record.report_embedding is not None


def test_a_report_without_sections_is_encoded_by_its_whole_text():
    assert report_text("", " ", "Normal chest.") == ReportText("Normal chest.", "")
    assert report_text("", "Normal.", "IMPRESSION: Normal.") == ReportText("", "Normal.")


@pytest.mark.parametrize(("text", "state"), [("", InstanceState.PLAIN), ("Knee pain.", InstanceState.GATED)])
def test_a_report_that_must_not_be_indexed_is_catalogued_without_becoming_the_studys_report(text, state):
    record = only(Report("", "", text=text, gate_reason="because"))
    assert (record.state, record.reason, record.report) == (state, "because", None)


def test_rejection_notes_and_objects_with_nothing_to_index_are_catalogued_plain():
    note = only(RejectionNote("113001", ("1.2.9",), ("1.4.9",)))
    assert note.state is InstanceState.PLAIN
    assert (note.rejection.code, note.rejection.rejected_sop_uids) == ("113001", ("1.2.9",))
    plain = only(Unindexed("presentation state"))
    assert (plain.state, plain.reason) == (InstanceState.PLAIN, "presentation state")


def test_a_vector_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        only(image(np.nan))
