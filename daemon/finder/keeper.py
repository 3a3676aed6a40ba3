"""What the finder holds: Catalogue, model and the active generation's indexes, kept level while answers go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from daemon.config import Config
from daemon.encoder import configured_encoder
from daemon.finder.beside import Beside
from daemon.finder.errors import Loading
from daemon.finder.kept import KeptStudies
from daemon.finder.scores import calibration_of, score_of
from daemon.finder.similarity import Similarity
from encoders.base import Encoder
from storage.base import Catalogue, Generation, Kind, StorageError
from storage.catalogue import open_catalogue
from storage.index.following import IndexSet, IndexSettings
from storage.numbers import Numbers
from storage.spool import Spool

log = structlog.get_logger(__name__)

#: Indexes that have not been level with the Catalogue for so long are called partial (xx16 Flags).
_LAG_S = 2.0


def catalogue_of(config: Config) -> Catalogue:
    """Return the configured Catalogue."""
    return open_catalogue(config.catalogue.url or config.storage.directory / "catalogue.db")


def index_directory(config: Config) -> Path:
    """Return the folder of the index snapshots."""
    return config.storage.directory / "index"


def open_indexes(
    config: Config, catalogue: Catalogue, generation: Generation, numbers: Numbers | None = None
) -> IndexSet:
    """Return a generation's indexes, level with the Catalogue; `numbers`: see `IndexSet.open`."""
    settings = IndexSettings(
        type=config.index.type, m=config.index.m, ef_construction=config.index.ef_construction,
        ef_search=config.index.ef_search,
    )
    return IndexSet.open(catalogue, generation, index_directory(config), settings, numbers)


class Keeper:
    """The state that the similar AE answers from. Until `load` has ended, its properties raise Loading."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._catalogue: Catalogue | None = None
        self._spool: Spool | None = None
        self._encoder: Encoder | None = None
        self._similarity: Similarity | None = None
        self._numbers = Numbers()                   # of studies, in all that is held of them
        self._kept: KeptStudies | None = None
        self._beside = Beside()
        self._level_at = time.monotonic()
        self._swapping = False
        self._followed = -1
        self.last_recall: float | None = None

    # ------------------------------------------------------------------------------------ for the AE

    @property
    def catalogue(self) -> Catalogue:
        """The Catalogue."""
        if self._catalogue is None:
            raise Loading("the catalogue is loading: ask again in a moment")
        return self._catalogue

    @property
    def similarity(self) -> Similarity:
        """The active generation's search."""
        if self._similarity is None:
            raise Loading("model and index are loading: ask again in a moment")
        return self._similarity

    def original(self, sop_instance_uid: str) -> Path | None:
        """Return the kept file of an instance."""
        path = self._spool.original(sop_instance_uid) if self._spool is not None else None
        return path if path is not None and path.exists() else None

    # ------------------------------------------------------------------------------------ life

    def load(self) -> None:
        """Open the Catalogue, the active generation's indexes, and load the model."""
        began = time.perf_counter()
        self._spool = Spool(self._config.storage.directory / "spool")
        self._catalogue = catalogue_of(self._config)
        self._kept = KeptStudies(self._catalogue, self._numbers, self._config.finder.kept_studies)
        known = self._catalogue.active_generation()
        if known is not None and known.calibration:
            self._switch(known)                     # examples can be asked for while the model loads, text cannot
        self._encoder = encoder = configured_encoder(self._config)
        own = self._catalogue.generation(encoder.fingerprint, encoder.model_id, encoder.dim, calibration_of(encoder))
        generation = self._catalogue.active_generation() or own
        self._switch(generation)
        log.info("finder.loaded", generation=generation.generation_id, load_ms=_ms(began), **self._counts())

    def follow(self) -> None:
        """Apply what changed in the Catalogue; when another generation has become active, answer from that one."""
        sequence = self.catalogue.sequence()        # indexes may get farther, past an activation not looked at yet
        if sequence != self._followed:
            active = self.catalogue.active_generation()
            if active is not None and active.generation_id != self.similarity.indexes.generation.generation_id:
                self._swapping = True
                try:
                    self._switch(active)
                finally:
                    self._swapping = False
                log.info("generation.switched", generation=active.generation_id, **self._counts())
            self.similarity.indexes.follow()
            self._followed = sequence
        self._level_at = time.monotonic()

    def run(self, stop: threading.Event, tell: Callable[[], None]) -> None:
        """Follow until `stop`, and `tell` each time; a Catalogue that does not answer is asked again."""
        failing = False
        while not stop.wait(self._config.finder.poll_interval_s):
            try:
                self.follow()
                if self._kept is not None:
                    self._kept.load_some()
                if failing:
                    log.info("index.following_again")
                failing = False
            except StorageError as error:
                if not failing:
                    log.error("index.behind", error=type(error).__name__, reason=str(error))
                failing = True
            tell()

    def _switch(self, generation: Generation) -> None:
        catalogue, encoder, current = self.catalogue, self._encoder, self._similarity
        if current is not None and current.indexes.generation.generation_id == generation.generation_id:
            indexes = current.indexes
            indexes.follow()
        else:
            indexes = open_indexes(self._config, catalogue, generation, self._numbers)
        self._level_at = time.monotonic()
        self._similarity = Similarity(
            catalogue, indexes, encoder, score_of(generation, encoder), kept=self._kept,
            partial=self.is_partial, waiting=self.is_waiting, beside=self._beside,
            default_results=self._config.similar.default_results, maximum_results=self._config.similar.maximum_results,
        )

    # ------------------------------------------------------------------------------------ jobs and facts

    def is_waiting(self, sop_instance_uid: str) -> bool:
        """Return whether an object was received here and still waits to be read or encoded."""
        return self._spool is not None and self._spool.waits(sop_instance_uid)

    def is_partial(self) -> bool:
        """Return whether the indexes lack what the Catalogue has held for longer than a moment."""
        return self._swapping or time.monotonic() - self._level_at > _LAG_S + self._config.finder.poll_interval_s

    def snapshot(self) -> bool:
        """Write the indexes to disk unless they have not changed."""
        return self._similarity is not None and self._similarity.indexes.snapshot()

    def probe_recall(self) -> float:
        """Return, keep and log recall@10 of the kind with the least, after making searches deeper where it is low."""
        began = time.perf_counter()
        recalls = self.similarity.indexes.keep_recall()
        kind = min(recalls, key=lambda each: recalls[each])
        self.last_recall = recall = recalls[kind]
        write = log.warning if recall < 0.95 else log.info
        write("index.recall_probed", recall_at_10=round(recall, 4), kind=kind.value, probe_ms=_ms(began))
        return recall

    def _counts(self) -> dict[str, int]:
        counts = self.similarity.indexes.counts()
        return {"images_searchable": counts[Kind.IMAGE], "reports_searchable": counts[Kind.REPORT]}

    def facts(self) -> Mapping[str, Any]:
        """Return what ``cxrfind status`` shows of the finder."""
        if self._similarity is None:
            return {}
        generation = self._similarity.indexes.generation
        return {
            "model_id": generation.model_id,
            "generation": generation.generation_id,
            "sequence": self._similarity.indexes.sequence,
            "index_partial": self.is_partial(),
            "last_recall": self.last_recall,
            "studies_kept": len(self._kept) if self._kept is not None else 0,
            "layouts_made": self._kept.layouts if self._kept is not None else 0,
            **self._counts(),
        }


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
