"""Call what tells an object's bytes apart a digest in the catalogue: the listener's is BLAKE3 from here on."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Rename the columns; digests that are there stay SHA-256, so that such an object counts as new if it comes."""
    for table in ("instances", "instance_versions"):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN sha256 TO digest")
