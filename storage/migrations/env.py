"""Alembic's entry: runs the revisions on the connection, and in the transaction, that the Catalogue opened."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
context.run_migrations()
