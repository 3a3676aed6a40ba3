"""Note of each study when it last changed, and when one was last erased: what keeps studies in memory can follow."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the sequence number of a study's last change (0: before this revision), and the counter of erasures."""
    op.add_column("studies", sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_studies_sequence", "studies", ["sequence"])
    op.execute("INSERT INTO counters (name, value) VALUES ('erased', 0)")
