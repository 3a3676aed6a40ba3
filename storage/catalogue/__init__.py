"""The Catalogue: the only truth about studies, instances, reports, findings, embeddings and generations."""

from __future__ import annotations

from pathlib import Path

from storage.base import Catalogue
from storage.catalogue.database import CatalogueError, CatalogueTooNew, CatalogueUnavailable, look_at
from storage.catalogue.sql import SqlCatalogue, UnknownGeneration


def open_catalogue(url_or_path: str | Path) -> SqlCatalogue:
    """Return the catalogue of an SQLAlchemy URL or an SQLite file: made when missing, upgraded when older.

    Raises
    ------
    CatalogueTooNew
        If a newer cxrfind made it.
    CatalogueUnavailable
        If it cannot be opened.
    """
    catalogue = SqlCatalogue(url_or_path)
    _: Catalogue = catalogue                                        # mypy holds the seam here
    return catalogue


__all__ = [
    "CatalogueError",
    "CatalogueTooNew",
    "CatalogueUnavailable",
    "SqlCatalogue",
    "UnknownGeneration",
    "look_at",
    "open_catalogue",
]
