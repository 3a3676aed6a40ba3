"""From what was read and encoded to what the Catalogue keeps. No I/O here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from daemon.reading import Read
from encoders.base import FINDING_NAMES, Encoder, Float32, Radiograph, RejectionNote, Report, ReportText, Unindexed
from storage.base import InstanceRecord, InstanceState, RejectionRecord, ReportRecord

#: Why the pixels, not the header, keep an image out.
NOT_CHEST = "pixels do not look like a chest radiograph"


def report_text(findings: str, impression: str, text: str) -> ReportText:
    """Return what the text tower sees: Findings and Impression, or the whole text where a report has neither."""
    if findings.strip() or impression.strip():
        return ReportText(findings, impression)
    return ReportText(findings=text)


def named_findings(row: Float32) -> dict[str, float]:
    """Return a row of 14 as finding name to value; what is not mentioned (NaN) is left out."""
    return {name: float(value) for name, value in zip(FINDING_NAMES, row, strict=True) if not np.isnan(value)}


def _report_record(report: Report) -> ReportRecord:
    return ReportRecord(
        findings=report.findings,
        impression=report.impression,
        indication=report.indication,
        text=report.text,
        language=report.language,
        state=str(report.state),
        verified=report.verified,
        content_time=report.content_time,
        verification_time=report.verification_time,
        referenced_study_uids=report.referenced_study_uids,
        referenced_sop_uids=report.referenced_sop_uids,
    )


def unencoded(read: Read) -> InstanceRecord:
    """Return the record of a read object before any model has seen it: gated, plain, or still to be encoded.

    Raises
    ------
    ValueError
        If the object was not read.
    """
    if read.result is None:
        raise ValueError(f"spool {read.instance.spool_id} was not read: {read.reason}")
    spooled, header, content = read.instance, read.result.header, read.result.content
    record = InstanceRecord(
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        transfer_syntax_uid=spooled.transfer_syntax_uid,
        digest=spooled.digest,
        size_bytes=spooled.size_bytes,
        calling_ae_title=spooled.calling_ae_title,
        received_at=spooled.received_at,
        attributes=header.attributes,
        state=InstanceState.PLAIN,
    )
    match content:
        case Radiograph(gate_reason=reason):
            return replace(
                record,
                state=InstanceState.GATED if reason else InstanceState.INDEXED,
                reason=reason or "",
                view=content.view,
                for_presentation=content.for_presentation,
                exposure_key=content.exposure_key,
            )
        case Report(gate_reason=None):
            return replace(record, state=InstanceState.INDEXED, report=_report_record(content))
        case Report(gate_reason=reason):
            # an object without words is no report at all; one about another region is kept out by the gate
            state = InstanceState.GATED if content.text.strip() else InstanceState.PLAIN
            return replace(record, state=state, reason=reason or "")
        case RejectionNote(code, sop_uids, study_uids):
            return replace(record, reason="rejection note", rejection=RejectionRecord(code, sop_uids, study_uids))
        case Unindexed(reason):
            return replace(record, reason=reason)


def encode(reads: list[Read], encoder: Encoder) -> list[InstanceRecord]:
    """Return the records of a batch, images and reports each encoded in one call; renditions are still to be named.

    Raises
    ------
    ValueError
        If the encoder answers with vectors that are not finite.
    """
    records = [unencoded(read) for read in reads]
    contents = [read.result.content for read in reads if read.result is not None]
    images = [
        (n, content.pixels)
        for n, (record, content) in enumerate(zip(records, contents, strict=True))
        if isinstance(content, Radiograph) and record.state is InstanceState.INDEXED
    ]
    if images:
        encoding = encoder.encode_images([pixels for _, pixels in images])
        _refuse_non_finite(encoding.embeddings)
        for row, (n, _) in enumerate(images):
            if encoding.chest[row] < encoder.chest_threshold:
                records[n] = replace(records[n], state=InstanceState.GATED, reason=NOT_CHEST)
                continue
            view = records[n].view
            if view == "unknown":
                view = "frontal" if encoding.frontal[row] >= 0.5 else "lateral"
            findings = named_findings(encoding.findings[row])
            records[n] = replace(records[n], view=view, embedding=encoding.embeddings[row], findings=findings)
    texts = [
        (n, report_text(record.report.findings, record.report.impression, record.report.text))
        for n, record in enumerate(records)
        if record.report is not None
    ]
    if texts:
        reports = encoder.encode_reports([text for _, text in texts])
        _refuse_non_finite(reports.embeddings)
        for row, (n, _) in enumerate(texts):
            records[n] = replace(
                records[n], report_embedding=reports.embeddings[row], findings=named_findings(reports.findings[row])
            )
    return records


def _refuse_non_finite(embeddings: Float32) -> None:
    if not np.isfinite(embeddings).all():
        raise ValueError("the encoder made a vector that is not finite")
