"""The finder: holds the indexes, follows the Catalogue, answers C-FIND, C-MOVE and C-GET, runs scheduled jobs.

::

    C-FIND --> similar_ae --> identifiers --SimilarityQuery--> similarity --legs--> IndexSet (follows the Catalogue)
                     <-- identifiers <----------Match---------

Never decodes pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.finder.similarity import Similarity


def run(
    config: Config,
    stop: threading.Event,
    ready: Callable[[], None],
    facts: MutableMapping[str, Any] | None = None,
    index: int = 0,
) -> None:
    """Serve until `stop` is set; call `ready` when queries can be answered (A700 before).

    Several processes may run this on one port when ``finder.processes`` is above 1, each with an index of its own.

    Parameters
    ----------
    facts : mapping, optional
        Numbers and names for the heartbeat, kept up to date.
    index : int
        Which of these this is; number 0 writes the snapshots that all read at their start, and watches the disk.

    Raises
    ------
    OSError
        When the port cannot be bound.
    CheckpointError, StorageError
        When the model or the Catalogue cannot be opened.
    """
    from pydicom import config as pydicom_config

    from daemon.finder import private, similar_ae
    from daemon.finder.jobs import Jobs
    from daemon.finder.keeper import Keeper

    shown = facts if facts is not None else {}
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE    # its warnings quote values
    private.register_with_pydicom()
    keeper = Keeper(config)
    jobs = Jobs(config, keeper.snapshot if index == 0 else None, keeper.probe_recall)

    def tell() -> None:
        shown.update({**keeper.facts(), "jobs_missed": jobs.missed, "jobs_failed": jobs.failed})

    server = similar_ae.start(config, keeper)
    shown["port"] = server.port
    try:
        keeper.load()
        jobs.start()
        tell()
        ready()
        keeper.run(stop, tell)
    finally:
        server.shutdown(grace_s=5.0)
        jobs.stop()
        if index == 0:
            keeper.snapshot()


def open_similarity(config: Config, *, model: bool = True) -> Similarity:
    """Return a search of one's own beside a running service (``cxrfind query``): snapshot read, tail followed.

    Parameters
    ----------
    model : bool
        False: without text queries, and scores by the calibration kept with the generation (no torch).
    """
    from daemon.encoder import configured_encoder
    from daemon.finder.errors import NoUsableIndex
    from daemon.finder.keeper import catalogue_of, open_indexes
    from daemon.finder.scores import score_of
    from daemon.finder.similarity import Similarity

    catalogue = catalogue_of(config)
    generation = catalogue.active_generation()
    if generation is None:
        raise NoUsableIndex("nothing is indexed yet: send studies to the running service first")
    encoder = configured_encoder(config) if model or not generation.calibration else None
    return Similarity(
        catalogue, open_indexes(config, catalogue, generation), encoder, score_of(generation, encoder),
        default_results=config.similar.default_results, maximum_results=config.similar.maximum_results,
    )
