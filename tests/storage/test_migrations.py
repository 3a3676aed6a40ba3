"""Databases of every age."""

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from storage.catalogue import CatalogueTooNew, open_catalogue
from storage.catalogue.database import MIGRATIONS, Database
from storage.catalogue.schema import SCHEMA_REVISION, metadata


def scripts():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config, ScriptDirectory.from_config(config)


REVISIONS = [script.revision for script in scripts()[1].walk_revisions()]


def database_at(path, revision):
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config, _ = scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def revision_of(path):
    with create_engine(f"sqlite:///{path}").connect() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def test_the_newest_migration_is_the_one_that_the_code_expects():
    assert scripts()[1].get_current_head() == SCHEMA_REVISION


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_any_age_becomes_what_the_code_expects(tmp_path, revision):
    database_at(tmp_path / "c.db", revision)
    with Database(tmp_path / "c.db").reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert revision_of(tmp_path / "c.db") == SCHEMA_REVISION


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_older_database_holds_is_kept(tmp_path, revision):
    database_at(tmp_path / "c.db", revision)
    with create_engine(f"sqlite:///{tmp_path / 'c.db'}").begin() as connection:
        connection.execute(
            text(
                "INSERT INTO generations (fingerprint, model_id, dim, calibration, active) "
                "VALUES ('f', 'm', 8, '{}', 1)"
            )
        )
    catalogue = open_catalogue(tmp_path / "c.db")
    assert catalogue.active_generation().fingerprint == "f"
    assert catalogue.sequence() == 0


def test_a_database_of_a_newer_cxrfind_is_refused_and_left_alone(tmp_path):
    open_catalogue(tmp_path / "c.db").close()
    with create_engine(f"sqlite:///{tmp_path / 'c.db'}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogueTooNew, match=r"9999.*newer"):
        open_catalogue(tmp_path / "c.db")
    assert revision_of(tmp_path / "c.db") == "9999"


def test_several_processes_may_make_the_database_at_once(tmp_path):
    code = f"from storage.catalogue import open_catalogue; print(open_catalogue({str(tmp_path / 'c.db')!r}).sequence())"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=MIGRATIONS.parents[1]) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"0\n"] * 3
