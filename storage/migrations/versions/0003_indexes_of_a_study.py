"""Index what is asked of one study together with what narrows it, so that no plan reads a whole generation or state."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Replace three indexes whose first column alone SQLite, without statistics, judged no better than a scan."""
    op.drop_index("ix_embeddings_study", "embeddings")
    op.create_index("ix_embeddings_study", "embeddings", ["study_uid", "generation_id"])
    op.drop_index("ix_present_findings_study_uid", "present_findings")
    op.create_index("ix_present_findings_study", "present_findings", ["study_uid", "generation_id", "name"])
    op.drop_index("ix_instances_study_series", "instances")
    op.create_index("ix_instances_study_state", "instances", ["study_uid", "state"])
