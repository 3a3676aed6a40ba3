"""A real Catalogue on a temporary folder, filled with small real vectors."""

import contextlib

import pytest
from finder_archive import Archive, RunningFinder

from storage.catalogue import open_catalogue


@pytest.fixture
def archive(tmp_path):
    catalogue = open_catalogue(tmp_path / "catalogue.db")
    yield Archive(catalogue)
    catalogue.close()


@pytest.fixture
def running(tmp_path):
    """Return a function that starts a finder over a fresh archive; stopped at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(fill=lambda archive: None, **options):
            catalogue = open_catalogue(tmp_path / "data" / "catalogue.db")
            stack.callback(catalogue.close)
            archive = Archive(catalogue)
            fill(archive)
            return stack.enter_context(RunningFinder(tmp_path / "data", archive, **options))

        yield start
