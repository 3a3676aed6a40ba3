"""Remember merged patients, so that objects which come later under the prior ID follow."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "patient_aliases",
        sa.Column("prior_key", sa.String, primary_key=True),
        sa.Column("patient_id", sa.String, nullable=False),
        sa.Column("issuer", sa.String, nullable=False),
    )
