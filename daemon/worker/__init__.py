"""The worker: claim -> read -> gate -> encode -> keep -> commit. Never touches the network.

::

    Spool --claim--> decoder processes --Read--> batch --Encoder--> records --> renditions, then one Catalogue
                     (reading.py)                                   (records.py)  transaction, then Spool.finish

Decoding of the next objects goes on while a batch is encoded. At any point the process may vanish: what it had claimed
is claimed again, and everything it may have kept already is recognised by its hash. When there is nothing to do and
the model is a new one, it encodes the archive again from the renditions (reencoding.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np

from daemon.config import Config
from daemon.encoder import configured_encoder, runtime_of
from daemon.reading import ReaderPool
from daemon.roles import worker_owner
from daemon.worker.pipeline import Pipeline
from storage.catalogue import open_catalogue
from storage.renditions import Renditions
from storage.spool import Spool

#: More decoders than this starve the encoder, whatever the number of cores.
MOST_READERS = 8


def run(
    config: Config,
    stop: threading.Event,
    ready: Callable[[], None],
    index: int = 0,
    facts: MutableMapping[str, Any] | None = None,
) -> None:
    """Work until `stop` is set; call `ready` when the model is loaded and the decoders are up.

    Parameters
    ----------
    index : int
        Which of the worker processes of this node this is; number 0 does the re-encoding for a new model.
    facts : mapping, optional
        Numbers and names for the heartbeat, kept up to date.
    """
    facts = facts if facts is not None else {}
    directory = config.storage.directory
    encoder = configured_encoder(config)
    spool = Spool(directory / "spool")
    catalogue = open_catalogue(config.catalogue.url or directory / "catalogue.db")
    short_side = max(encoder.image_size, config.storage.rendition_short_side)
    readers = config.worker.readers or min(os.cpu_count() or 1, MOST_READERS)
    with ReaderPool(readers, short_side, config.worker.read_timeout_s, config.worker.reader_memory_bytes) as pool:
        pipeline = Pipeline(
            owner=worker_owner(index),
            spool=spool,
            catalogue=catalogue,
            renditions=Renditions(directory / "renditions"),
            encoder=encoder,
            pool=pool,
            in_flight=config.worker.batch_size * 2 + readers,
            batch_size=config.worker.batch_size,
            keep_originals=config.storage.keep_originals,
            poll_interval_s=config.worker.poll_interval_s,
            reencodes=index == 0,
            facts=facts,
        )
        encoder.encode_images([np.zeros((encoder.image_size, encoder.image_size), np.float32)])     # the first is slow
        pipeline.facts["runtime"] = runtime_of(encoder)
        ready()
        pipeline.serve(stop)
    spool.close()


__all__ = ["run"]
