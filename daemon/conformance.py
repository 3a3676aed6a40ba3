"""The DICOM conformance statement, in the layout of PS3.2 Annex A, made from the tables that the service runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import daemon
from daemon.config import Config
from daemon.finder import private
from daemon.finder.errors import FinderError
from daemon.listener.status import STORE_STATUSES
from daemon.reactor import MAXIMUM_LENGTH
from daemon.status import STATUSES
from encoders.readers.header import QUERYABLE
from encoders.readers.table import READERS, TRANSFER_SYNTAXES

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMMITMENT = "1.2.840.10008.1.20.1"
VERIFICATION = "1.2.840.10008.1.1"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _overview() -> str:
    return _table(
        ("SOP class", "UID", "user (SCU)", "provider (SCP)"),
        [
            ("Verification", VERIFICATION, "no", "yes"),
            *((row.name, uid, "C-MOVE sub-operations", "yes") for uid, row in READERS.items()),
            ("Storage Commitment Push Model", COMMITMENT, "no", "yes"),
            ("Study Root Query/Retrieve Information Model - FIND", FIND, "no", "yes (Standard Extended)"),
            ("Study Root Query/Retrieve Information Model - MOVE", MOVE, "no", "yes"),
            ("Study Root Query/Retrieve Information Model - GET", GET, "no", "yes"),
        ],
    )


def _storage() -> str:
    what = {"image": "radiograph", "report": "report text", "note": "rejection note", "presentation": "-"}
    return _table(
        ("SOP class", "UID", "kept", "read as", "indexed"),
        [
            (row.name, uid, "yes", what[row.group] if row.reader else "-", "yes" if row.indexable else "no")
            for uid, row in READERS.items()
        ],
    )


def _transfer_syntaxes() -> str:
    return _table(("transfer syntax", "UID"), [(row.name, row.uid) for row in TRANSFER_SYNTAXES])


def _keys() -> str:
    rows = [(level, ", ".join(word for word, at in QUERYABLE.items() if at == level))
            for level in ("PATIENT", "STUDY", "SERIES", "IMAGE")]
    return _table(("level of the attribute", "keywords that can be matched and returned"), rows)


def _private() -> str:
    return _table(
        ("tag", "VR", "VM", "keyword", "role", "meaning"),
        [
            (f"(0099,xx{row.offset:02X})", row.vr, row.vm, row.keyword, "asks" if row.key else "answers", row.meaning)
            for row in private.ELEMENTS
        ],
    )


def _find_statuses() -> str:
    rows = [
        ("0000", "end of the answers; also when there are none"),
        ("FF00", "pending"),
        ("FF01", "pending; an optional key of the request is not supported"),
        ("FE00", "ended by C-CANCEL, and only then"),
    ]
    rows += [
        (f"{row.status:04X}", f"{row.meaning} ({row.section})")
        for row in STATUSES if issubclass(row.error, FinderError) or row.error is Exception
    ]
    return _table(("status", "when"), rows)


def _store_statuses() -> str:
    rows = [("0000", "the object is on disk and journalled: a power cut now loses nothing")]
    rows += [(f"{row.status:04X}", f"{row.meaning} ({row.section})") for row in STORE_STATUSES]
    return _table(("status", "when"), rows)


def statement() -> str:
    """Return the conformance statement as Markdown."""
    config = Config.model_construct()
    ingest, similar = config.ingest, config.similar
    return f"""\
# DICOM Conformance Statement: cxrfind {daemon.__version__}

Made by `cxrfind conformance` from the tables that the service runs on. Layout: DICOM PS3.2 Annex A.

## 1 Conformance statement overview

cxrfind receives chest radiographs and their reports, and answers queries for similar studies. It offers two
application entities (AE): *ingest* takes objects in, *similar* answers queries and returns the objects that it keeps.
Research use; not a diagnostic device.

{_overview()}

No media services are offered.

## 2 Table of contents

1 Overview · 2 Contents · 3 Introduction · 4 Networking · 5 Media interchange · 6 Support of character sets ·
7 Security · 8 Annexes

## 3 Introduction

Audience: hospital staff who connect cxrfind with a PACS and workstations. Known deviation: mode C (4.2.2.4),
off unless a calling AE is configured for it. Terms and abbreviations are those of DICOM PS3.

## 4 Networking

### 4.1 Implementation model

    PACS        --C-STORE-->  ingest AE   -->  spool --> worker --> catalogue, index
    workstation --C-FIND-->   similar AE  -->  catalogue, index
    workstation --C-MOVE-->   similar AE  --C-STORE-->  move destination
    workstation --C-GET -->   similar AE  --C-STORE-->  the same association

An object is on disk, flushed and journalled before C-STORE is answered with success. Reading and indexing follow
asynchronously. There is no "study complete": each object is indexed as it comes, and a report that comes later
changes its study's entry.

### 4.2 AE specifications

#### 4.2.1 Ingest AE (default title {ingest.ae_title}, port {ingest.port})

##### 4.2.1.1 SOP classes

{_storage()}

Presentation contexts: each of these SOP classes with each of the transfer syntaxes below, Storage Commitment Push
Model and Verification with Implicit and Explicit VR Little Endian.

{_transfer_syntaxes()}

##### 4.2.1.2 Association policies

At most {ingest.maximum_associations} associations at once, {ingest.maximum_associations_per_address} from one
address (configurable); more are rejected as transient, local limit exceeded (PS3.8 Table 9-21). Largest PDU received:
{MAXIMUM_LENGTH} bytes. Asynchronous operations are not negotiated. A called title other than ours, and a calling AE
without the right to store, are rejected (called / calling AE title not recognised). Associations are not initiated,
except to report storage commitment to a peer whose port is configured, when its own association has ended.

##### 4.2.1.3 Behaviour

The data set is stored as received (level 2, full), in the transfer syntax received; nothing is coerced. The same SOP
instance again is answered with success and stored once; the same SOP Instance UID with other content replaces it, and
both digests are kept.

{_store_statuses()}

#### 4.2.2 Similar AE (default title {similar.ae_title}, port {similar.port})

##### 4.2.2.1 SOP classes

Verification and the Study Root FIND, MOVE and GET models, with Implicit and Explicit VR Little Endian. C-MOVE and C-GET
send the objects in the transfer syntax in which they were received.

##### 4.2.2.2 Study Root FIND

Levels STUDY, SERIES and IMAGE, hierarchical search, matching as PS3.4 C.2.2.2: single value, list of UID, universal,
wild card, range. Relational queries and fuzzy matching are not negotiated. A query with more than
{similar.maximum_exact_results} answers (configurable) is refused with A700: narrow it. Besides the attributes
below: ModalitiesInStudy, SOPClassesInStudy, NumberOfStudyRelatedSeries, NumberOfStudyRelatedInstances,
NumberOfSeriesRelatedInstances, RetrieveAETitle, InstanceAvailability.

{_keys()}

{_find_statuses()}

##### 4.2.2.3 Standard Extended SOP Class: similarity (mode S)

A Study Root FIND at STUDY level with private keys (8.2) and empty StudyInstanceUID is a similarity query. Standard
keys with a value are exact filters. Answers: one for each study, best first, with the attributes that were requested
and no others (PS3.4 C.4.1.1.3.2). An SCU that does not send private keys meets the plain Study Root FIND.

##### 4.2.2.4 Mode C (deviation)

For a calling AE with the right `mode_c`: a STUDY level query with one StudyInstanceUID, AccessionNumber or
SOPInstanceUID is answered with the studies similar to it; rank and score stand in front of StudyDescription, if that
was requested.

### 4.3 Network interfaces

TCP/IP, IPv4 and IPv6, optionally TLS.

### 4.4 Configuration

AE titles, addresses, ports, limits, and each peer's title, address, port and rights: see `deploy/cxrfind.example.toml`.

## 5 Media interchange

None.

## 6 Support of character sets

All character sets of PS3.3 C.12.1.1.2 are understood in objects and requests, including those with code extensions
(ISO 2022). Answers are ISO_IR 6, or ISO_IR 192 (UTF-8) where that does not suffice.

## 7 Security

Optional TLS 1.2 and 1.3 with the cipher suites of BCP 195 (PS3.15 B.9), client certificates verified. Calling AE titles
are bound to addresses and, with TLS, to certificates. Logs hold no patient data.

## 8 Annexes

### 8.1 IOD contents

cxrfind creates no composite instances.

### 8.2 Data dictionary of private attributes

Group 0099, private creator `{private.CREATOR}`.

{_private()}

### 8.3 Coded terminology

Key Object Selection titles 113001, 113037, 113038 and 113039 (DCM) are honoured as rejection notes (IHE IOCM).

### 8.4 Private transfer syntaxes

None.
"""
