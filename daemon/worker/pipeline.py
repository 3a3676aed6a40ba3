"""The worker's loop: keep the decoders busy, make batches of what they have read, encode and commit them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from daemon import logs
from daemon.reading import Read, ReaderPool
from daemon.worker.records import encode
from daemon.worker.reencoding import Reencoding
from encoders.base import Encoder
from storage.base import Catalogue, InstanceState
from storage.renditions import Renditions
from storage.spool import Spool

log = logs.get_logger()

#: An object is put aside when it has taken this many decoder processes along (once may be the machine's fault).
MOST_DEATHS = 2

#: While other objects are being read, a batch that is not full waits this long for them: encoding one at a time
#: costs the decoders more than it gains. An object that is alone never waits.
LINGER_S = 0.1

#: What a single bad object can make encoder and catalogue raise; everything else is not an object's fault.
_OBJECT_FAULTS = (ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(slots=True)
class Pipeline:
    """What one worker process works with. `facts` are for the heartbeat."""

    owner: str
    spool: Spool
    catalogue: Catalogue
    renditions: Renditions
    encoder: Encoder
    pool: ReaderPool
    in_flight: int
    batch_size: int
    keep_originals: bool
    poll_interval_s: float
    reencodes: bool
    facts: MutableMapping[str, Any]
    _claimed: int = 0                                               # submitted, not yet taken from the pool
    _reencoding: Reencoding = field(init=False)

    def __post_init__(self) -> None:
        self._reencoding = Reencoding(self.catalogue, self.renditions, self.encoder, self.batch_size)
        self.facts.update(
            model_id=self.encoder.model_id, generation=self._reencoding.generation.generation_id,
            batches=0, encoded=0, gated=0, quarantined=0, reencoded=0,
        )  # fmt: skip

    def serve(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is finished, the rest goes back to the spool."""
        self.spool.release(self.owner)                              # what a predecessor that died had claimed
        try:
            while not stop.is_set():
                self._claim()
                batch = self._next_batch(stop)
                if batch:
                    self._finish(batch)
                elif not self._claimed and not (self.reencodes and self._reencode()):
                    stop.wait(self.poll_interval_s)
        finally:
            self.spool.release(self.owner)

    def _claim(self) -> None:
        if self.pool.failure is not None:
            raise self.pool.failure
        free = self.in_flight - self._claimed
        if free < self.batch_size:                                  # few, larger transactions
            return
        for instance in self.spool.claim(free, self.owner):
            self.pool.submit(instance)
            self._claimed += 1

    def _next_batch(self, stop: threading.Event) -> list[Read]:
        """Return what has been read by now, at most a batch; wait only while something is being read."""
        batch: list[Read] = []
        until = time.monotonic() + LINGER_S
        while len(batch) < self.batch_size and self._claimed and not stop.is_set():
            try:
                batch.append(self.pool.done.get(timeout=max(until - time.monotonic(), 0.001)))
            except queue.Empty:
                break
            self._claimed -= 1
        return batch

    def _finish(self, batch: list[Read]) -> None:
        batch.sort(key=lambda read: read.instance.spool_id)
        good = [read for read in batch if read.result is not None]
        for read in batch:
            if read.died:
                self._count_death(read)
            elif read.result is None:
                self._quarantine(read, read.reason)
        if not good:
            return
        try:
            self._encode_and_commit(good)
        except _OBJECT_FAULTS as error:
            log.warning("worker.batch_split", instances=len(good), exc_info=error)
            for read in good:                                       # one of them is at fault: the others must not wait
                try:
                    self._encode_and_commit([read])
                except _OBJECT_FAULTS as fault:
                    self._quarantine(read, f"cannot be encoded or catalogued ({type(fault).__name__})")

    def _encode_and_commit(self, reads: list[Read]) -> None:
        began = time.perf_counter()
        with ThreadPoolExecutor(1, "renditions") as beside:         # flushing waits for the disk, not for the cores
            kept = beside.submit(self._keep_renditions, reads)
            records = encode(reads, self.encoder)
        encoded = time.perf_counter()
        records = [replace(record, rendition=key) for record, key in zip(records, kept.result(), strict=True)]
        self.catalogue.commit(records, self._reencoding.generation.generation_id, self.encoder.fuse)
        self.spool.finish([read.instance.spool_id for read in reads], keep=self.keep_originals)
        committed = time.perf_counter()
        gated = [record for record in records if record.state is InstanceState.GATED]
        for record in gated:
            log.info("instance.gated", sop_instance_uid=record.sop_instance_uid, reason=record.reason)
        images = sum(record.embedding is not None for record in records)
        reports = sum(record.report_embedding is not None for record in records)
        self.facts["batches"] += 1
        self.facts["encoded"] += images + reports
        self.facts["gated"] += len(gated)
        log.info(
            "worker.batch_committed", instances=len(records), images=images, reports=reports, gated=len(gated),
            decode_ms=round(sum(read.read_ms for read in reads), 1), encode_ms=round((encoded - began) * 1e3, 1),
            commit_ms=round((committed - encoded) * 1e3, 1),
        )  # fmt: skip

    def _keep_renditions(self, reads: list[Read]) -> list[str | None]:
        """Keep a rendition of every image, of those too that the gate keeps out: a person may want to see why."""
        images = {n: read.grey for n, read in enumerate(reads) if read.grey is not None}
        keys = dict(zip(images, self.renditions.put_many(list(images.values())), strict=True))
        return [keys.get(n) for n in range(len(reads))]

    def _count_death(self, read: Read) -> None:
        deaths = read.instance.deaths + 1
        log.error("reader.died", sop_instance_uid=read.instance.sop_instance_uid, reason=read.reason, deaths=deaths)
        if deaths >= MOST_DEATHS:
            self._quarantine(read, f"{read.reason}, {deaths} times")
        else:
            self.spool.died(read.instance.spool_id)

    def _quarantine(self, read: Read, reason: str) -> None:
        self.spool.quarantine(read.instance.spool_id, reason)
        self.facts["quarantined"] += 1
        log.warning("instance.quarantined", sop_instance_uid=read.instance.sop_instance_uid, reason=reason)

    def _reencode(self) -> bool:
        """Encode a batch of the archive for a new model; False when there is none to encode."""
        done = self._reencoding.step()
        self.facts["reencoded"] += done
        return done > 0
