"""The tables of cxrfind 0.1."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make them, and the counter of the sequence number."""
    op.create_table(
        "counters",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "generations",
        sa.Column("generation_id", _ID, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("model_id", sa.String(64), nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("calibration", sa.JSON, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "studies",
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("patient_key", sa.String, nullable=False),
        sa.Column("patient_id", sa.String, nullable=False),
        sa.Column("patient_name", sa.String, nullable=False),
        sa.Column("patient_sex", sa.String, nullable=False),
        sa.Column("study_date", sa.String, nullable=False),
        sa.Column("accession_number", sa.String, nullable=False),
        sa.Column("accession_key", sa.String, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("attributes_at", sa.String, nullable=False),
        sa.Column("source_ae_title", sa.String, nullable=False),
        sa.Column("modalities", sa.String, nullable=False),
        sa.Column("sop_classes", sa.String, nullable=False),
        sa.Column("series_count", sa.Integer, nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("image_count", sa.Integer, nullable=False),
    )
    op.create_table(
        "series",
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("attributes_at", sa.String, nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=False),
    )
    op.create_table(
        "instances",
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("received_at", sa.String, nullable=False),
        sa.Column("is_image", sa.Boolean, nullable=False),
        sa.Column("own_state", sa.String(8), nullable=False),
        sa.Column("own_reason", sa.String, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("view", sa.String, nullable=False),
        sa.Column("for_presentation", sa.Boolean, nullable=False),
        sa.Column("exposure_key", sa.String),
        sa.Column("rendition", sa.String),
        sa.Column("attributes", sa.JSON, nullable=False),
    )
    op.create_table(
        "instance_versions",
        sa.Column("version_id", _ID, primary_key=True, autoincrement=True),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("received_at", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reports",
        sa.Column("report_id", _ID, primary_key=True, autoincrement=True),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("current", sa.Boolean, nullable=False),
        sa.Column("received_at", sa.String, nullable=False),
        sa.Column("findings", sa.Text, nullable=False),
        sa.Column("impression", sa.Text, nullable=False),
        sa.Column("indication", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("language", sa.String, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("content_time", sa.String),
        sa.Column("verification_time", sa.String),
        sa.Column("referenced_study_uids", sa.JSON, nullable=False),
        sa.Column("referenced_sop_uids", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "report_references",
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("referenced_uid", sa.String(64), primary_key=True),
    )
    op.create_table(
        "report_targets",
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
    )
    op.create_table(
        "encodings",
        sa.Column("encoding_id", _ID, primary_key=True, autoincrement=True),
        sa.Column("generation_id", _ID, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary),
        sa.Column("findings", sa.JSON, nullable=False),
        sa.UniqueConstraint("uid", "kind", "generation_id", name="uq_encodings_uid"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "embeddings",
        sa.Column("label", _ID, primary_key=True, autoincrement=True),
        sa.Column("generation_id", _ID, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("encoding_id", _ID, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tombstones",
        sa.Column("label", _ID, primary_key=True, autoincrement=False),
        sa.Column("generation_id", _ID, nullable=False),
        sa.Column("added_sequence", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "rejections",
        sa.Column("uid", sa.String(64), primary_key=True),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("note_sop_uid", sa.String(64), nullable=False),
    )
    op.create_table(
        "study_findings",
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("generation_id", _ID, primary_key=True),
        sa.Column("findings", sa.JSON, nullable=False),
    )
    op.create_table(
        "present_findings",
        sa.Column("generation_id", _ID, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
    )
    op.create_table(
        "stale_studies",
        sa.Column("generation_id", _ID, primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
    )
    op.create_index("ix_studies_patient_key", "studies", ["patient_key"])
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"])
    op.create_index("ix_studies_study_date", "studies", ["study_date"])
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"])
    op.create_index("ix_studies_accession_key", "studies", ["accession_key"])
    op.create_index("ix_series_series_uid", "series", ["series_uid"])
    op.create_index("ix_instances_state", "instances", ["state"])
    op.create_index("ix_instances_study_series", "instances", ["study_uid", "series_uid"])
    op.create_index("ix_instance_versions_sop_uid", "instance_versions", ["sop_uid"])
    op.create_index("ix_reports_sop_uid", "reports", ["sop_uid"])
    op.create_index("ix_reports_study_uid", "reports", ["study_uid"])
    op.create_index("ix_report_references_referenced_uid", "report_references", ["referenced_uid"])
    op.create_index("ix_report_targets_study_uid", "report_targets", ["study_uid"])
    op.create_index("ix_embeddings_sop_uid", "embeddings", ["sop_uid"])
    op.create_index("ix_embeddings_sequence", "embeddings", ["generation_id", "sequence"])
    op.create_index("ix_embeddings_study", "embeddings", ["study_uid"])
    op.create_index("ix_tombstones_sequence", "tombstones", ["generation_id", "sequence"])
    op.create_index("ix_present_findings_study_uid", "present_findings", ["study_uid"])
    op.execute("INSERT INTO counters (name, value) VALUES ('sequence', 0)")
