"""A new model: encode the archive again from renditions and report texts, then make its generation the active one.

Meanwhile queries are answered from the old generation. What arrives meanwhile is encoded by the new model only, and
so becomes searchable when the generation changes.
"""

from __future__ import annotations

from daemon import logs
from daemon.worker.records import named_findings, report_text
from encoders.base import Encoder
from storage.base import Catalogue, Generation, Pending, Reencoded, StorageError
from storage.renditions import Renditions

log = logs.get_logger()


class Reencoding:
    """The generation of the present model, and its way to becoming the active one, a batch at a time."""

    def __init__(self, catalogue: Catalogue, renditions: Renditions, encoder: Encoder, batch_size: int) -> None:
        self._catalogue, self._renditions, self._encoder = catalogue, renditions, encoder
        self._batch_size = batch_size
        self._left_out: set[str] = set()
        self.generation = self._own_generation()

    def step(self) -> int:
        """Encode the next batch; return how many were encoded, 0 when the generation is active."""
        if self.generation.active:
            return 0
        pending = self._catalogue.pending(self.generation.generation_id, self._batch_size + len(self._left_out))
        pending = [item for item in pending if item.sop_instance_uid not in self._left_out]
        if not pending:
            self._catalogue.activate(self.generation.generation_id)
            self.generation = self._own_generation()
            log.info("generation.activated", generation=self.generation.generation_id, left_out=len(self._left_out))
            return 0
        rows = self._images(pending) + self._reports(pending)
        self._catalogue.commit_reencoded(rows, self.generation.generation_id, self._encoder.fuse)
        log.info("generation.batch_encoded", generation=self.generation.generation_id, instances=len(rows))
        return len(pending)

    def _own_generation(self) -> Generation:
        calibration = getattr(self._encoder, "calibration", None)   # None: keep what the generation has
        return self._catalogue.generation(
            self._encoder.fingerprint, self._encoder.model_id, self._encoder.dim, calibration
        )

    def _images(self, pending: list[Pending]) -> list[Reencoded]:
        uids, images = [], []
        for item in pending:
            if item.rendition is None:
                continue
            try:
                images.append(self._renditions.load_unit(item.rendition))
                uids.append(item.sop_instance_uid)
            except (StorageError, OSError) as error:
                self._left_out.add(item.sop_instance_uid)
                log.error("rendition.unreadable", sop_instance_uid=item.sop_instance_uid, exc_info=error)
        if not images:
            return []
        encoding = self._encoder.encode_images(images)
        return [
            Reencoded(uid, embedding, named_findings(findings))
            for uid, embedding, findings in zip(uids, encoding.embeddings, encoding.findings, strict=True)
        ]

    def _reports(self, pending: list[Pending]) -> list[Reencoded]:
        reports = [(item.sop_instance_uid, item.report) for item in pending if item.report is not None]
        if not reports:
            return []
        encoding = self._encoder.encode_reports([report_text(r.findings, r.impression, r.text) for _, r in reports])
        return [
            Reencoded(uid, embedding, named_findings(findings))
            for (uid, _), embedding, findings in zip(reports, encoding.embeddings, encoding.findings, strict=True)
        ]
