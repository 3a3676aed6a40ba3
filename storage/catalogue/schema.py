"""The tables. `storage/migrations` brings any older database to this state; a test holds both equal.

An index of what belongs to one study holds, after the study, what else is asked for with an equals sign, and all that
is read where another index covers that: SQLite, without statistics, would rather read a whole generation.

Times are text, ISO 8601 in UTC with microseconds, so that they sort; dates and times of DICOM stay DICOM strings.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

#: The newest revision under storage/migrations/versions.
SCHEMA_REVISION = "0005"

metadata = MetaData()

#: SQLite gives an AUTOINCREMENT (a number is never used twice) to INTEGER keys alone.
_ID = BigInteger().with_variant(Integer, "sqlite")

counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("generation_id", _ID, primary_key=True, autoincrement=True),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("model_id", String(64), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("calibration", JSON, nullable=False),
    Column("active", Boolean, nullable=False),
    sqlite_autoincrement=True,
)

studies = Table(
    "studies",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("patient_key", String, nullable=False, index=True),
    Column("patient_id", String, nullable=False, index=True),
    Column("patient_name", String, nullable=False),             # case folded, all component groups
    Column("patient_sex", String, nullable=False),
    Column("study_date", String, nullable=False, index=True),
    Column("accession_number", String, nullable=False, index=True),
    Column("accession_key", String, nullable=False, index=True),
    Column("attributes", JSON, nullable=False),
    Column("attributes_at", String, nullable=False),
    Column("source_ae_title", String, nullable=False),
    Column("modalities", String, nullable=False),               # \CR\DX\
    Column("sop_classes", String, nullable=False),
    Column("series_count", Integer, nullable=False),            # these three: of what is not hidden
    Column("instance_count", Integer, nullable=False),
    Column("image_count", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False, server_default="0", index=True),  # of its last change
)

series = Table(
    "series",
    metadata,
    Column("study_uid", String(64), primary_key=True),          # one series UID in two studies happens
    Column("series_uid", String(64), primary_key=True, index=True),
    Column("attributes", JSON, nullable=False),
    Column("attributes_at", String, nullable=False),
    Column("instance_count", Integer, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("sop_uid", String(64), primary_key=True),
    Column("study_uid", String(64), nullable=False),
    Column("series_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", String, nullable=False),
    Column("is_image", Boolean, nullable=False),
    Column("own_state", String(8), nullable=False),             # as the worker judged it
    Column("own_reason", String, nullable=False),
    Column("state", String(8), nullable=False, index=True),     # with rejection notes and its siblings
    Column("reason", String, nullable=False),
    Column("view", String, nullable=False),
    Column("for_presentation", Boolean, nullable=False),
    Column("exposure_key", String),
    Column("rendition", String),
    Column("attributes", JSON, nullable=False),
    Index("ix_instances_study_state", "study_uid", "state"),
)

instance_versions = Table(                                      # every set of bytes that ever came under a UID
    "instance_versions",
    metadata,
    Column("version_id", _ID, primary_key=True, autoincrement=True),
    Column("sop_uid", String(64), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", String, nullable=False),
    sqlite_autoincrement=True,
)

reports = Table(
    "reports",
    metadata,
    Column("report_id", _ID, primary_key=True, autoincrement=True),
    Column("sop_uid", String(64), nullable=False, index=True),
    Column("study_uid", String(64), nullable=False, index=True),  # its own, not always the images'
    Column("current", Boolean, nullable=False),                 # false: other bytes came under its UID
    Column("received_at", String, nullable=False),
    Column("findings", Text, nullable=False),
    Column("impression", Text, nullable=False),
    Column("indication", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("language", String, nullable=False),
    Column("state", String(16), nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("content_time", String),
    Column("verification_time", String),
    Column("referenced_study_uids", JSON, nullable=False),
    Column("referenced_sop_uids", JSON, nullable=False),
    sqlite_autoincrement=True,
)

report_references = Table(                                      # studies and instances that a current report names
    "report_references",
    metadata,
    Column("sop_uid", String(64), primary_key=True),
    Column("referenced_uid", String(64), primary_key=True, index=True),
)

report_targets = Table(                                         # studies that a current report speaks of
    "report_targets",
    metadata,
    Column("sop_uid", String(64), primary_key=True),
    Column("study_uid", String(64), primary_key=True, index=True),
)

encodings = Table(                                              # what a model made of an object, searchable or not
    "encodings",
    metadata,
    Column("encoding_id", _ID, primary_key=True, autoincrement=True),
    Column("generation_id", _ID, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("uid", String(64), nullable=False),                  # SOP instance; of JOINT the study
    Column("vector", LargeBinary),                              # float32, little endian
    Column("findings", JSON, nullable=False),
    UniqueConstraint("uid", "kind", "generation_id", name="uq_encodings_uid"),
    sqlite_autoincrement=True,
)

embeddings = Table(                                             # what can be found
    "embeddings",
    metadata,
    Column("label", _ID, primary_key=True, autoincrement=True),
    Column("generation_id", _ID, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("study_uid", String(64), nullable=False),
    Column("sop_uid", String(64), nullable=False, index=True),
    Column("encoding_id", _ID, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("ix_embeddings_sequence", "generation_id", "sequence"),
    Index("ix_embeddings_study", "study_uid", "generation_id"),
    sqlite_autoincrement=True,
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("label", _ID, primary_key=True, autoincrement=False),
    Column("generation_id", _ID, nullable=False),
    Column("added_sequence", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("ix_tombstones_sequence", "generation_id", "sequence"),
)

rejections = Table(                                             # by rejection notes, also of what never came
    "rejections",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("code", String, nullable=False),
    Column("note_sop_uid", String(64), nullable=False),
)

study_findings = Table(
    "study_findings",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("generation_id", _ID, primary_key=True),
    Column("findings", JSON, nullable=False),
)

present_findings = Table(
    "present_findings",
    metadata,
    Column("generation_id", _ID, primary_key=True),
    Column("name", String, primary_key=True),
    Column("study_uid", String(64), primary_key=True),
    Index("ix_present_findings_study", "study_uid", "generation_id", "name"),
)

stale_studies = Table(                                          # changed while another generation's model was at work
    "stale_studies",
    metadata,
    Column("generation_id", _ID, primary_key=True),
    Column("study_uid", String(64), primary_key=True),
)

patient_aliases = Table(                                        # merged patients: later objects follow
    "patient_aliases",
    metadata,
    Column("prior_key", String, primary_key=True),
    Column("patient_id", String, nullable=False),
    Column("issuer", String, nullable=False),
)
