"""The three indexes of one generation, kept level with the Catalogue: what the finder holds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from storage.base import (
    Catalogue,
    Changes,
    EmbeddingRow,
    Float32,
    Generation,
    Int64,
    Kind,
    Neighbour,
    Neighbours,
    StorageError,
)
from storage.index.owners import Owned, Owners
from storage.index.pages import give_back
from storage.index.registry import LabelledIndex, engine
from storage.index.table import BadLabel
from storage.numbers import Numbers
from storage.snapshot import SnapshotManifest, load_snapshot, save_snapshot

log = structlog.get_logger(__name__)

#: Changes read at once: few at first, for nothing can be added meanwhile, then as many as are added in one go.
_FIRST_BATCH, _BATCH = 2048, 16384


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Which engine, and its parameters; names as in the section ``[index]`` of the configuration.

    `threads`: of additions; 0 for all cores, 1 for reproducible answers.
    """

    type: str = "hnsw"
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 128
    threads: int = 0

    def parameters(self) -> dict[str, int]:
        """Return the keyword arguments of the engine's class."""
        return {
            "m": self.m,
            "ef_construction": self.ef_construction,
            "ef_search": self.ef_search,
            "threads": self.threads,
        }


class IndexSet:
    """Three vector indexes (IMAGE, REPORT, JOINT) of one generation that follow the Catalogue.

    Safe to call from many threads: searches go on while `follow`, `snapshot` and `probe_recall` run.

    Attributes
    ----------
    generation : Generation
    sequence : int
        The Catalogue's sequence number up to which changes have been applied.
    numbers : Numbers
        Of StudyInstanceUIDs.
    """

    def __init__(
        self, catalogue: Catalogue, generation: Generation, directory: Path, settings: IndexSettings, numbers: Numbers
    ) -> None:
        """Make an empty set; use `open`, which fills it."""
        self.generation, self.numbers = generation, numbers
        self.sequence = 0
        self._catalogue = catalogue
        self._directory = directory / f"generation-{generation.generation_id}"
        self._settings = settings
        self._changing = threading.Lock()
        self._snapshot_sequence = -1
        self._owners = Owners(numbers)
        self._indexes: dict[Kind, LabelledIndex] = {
            kind: engine(settings.type)(generation.dim, **settings.parameters()) for kind in Kind
        }

    @classmethod
    def open(
        cls,
        catalogue: Catalogue,
        generation: Generation,
        directory: Path,
        settings: IndexSettings | None = None,
        numbers: Numbers | None = None,
    ) -> IndexSet:
        """Return a set level with the Catalogue: from the newest sound snapshot and what came after, else rebuilt.

        Parameters
        ----------
        directory : Path
            Folder of the snapshots; made when missing, may be deleted at any time while the service is stopped.
        numbers : Numbers, optional
            Of StudyInstanceUIDs, where they are shared with another generation's set or with what is kept of studies.
        """
        numbers = Numbers() if numbers is None else numbers         # an empty one is false, and still to be shared
        opened = cls._opened(catalogue, generation, directory, settings or IndexSettings(), numbers)
        give_back()
        return opened

    @classmethod
    def _opened(
        cls, catalogue: Catalogue, generation: Generation, directory: Path, settings: IndexSettings, numbers: Numbers
    ) -> IndexSet:
        opened = cls(catalogue, generation, directory, settings, numbers)
        if opened._restore():
            try:
                if opened.sequence <= catalogue.sequence():
                    opened.follow()
            except StorageError as error:
                log.warning("index.tail_refused", reason=str(error))
            if opened._agrees():
                return opened
            log.warning("index.snapshot_disagreed", generation=generation.generation_id)
            shutil.rmtree(opened._directory, ignore_errors=True)    # of another database, or one from a backup
            opened = cls(catalogue, generation, directory, settings, numbers)
        opened.follow()
        log.info("index.rebuilt", generation=generation.generation_id, vectors=sum(opened.counts().values()))
        return opened

    # ------------------------------------------------------------------------------------ following

    def follow(self) -> int:
        """Apply what happened in the Catalogue since the last call; return how many vectors came or went."""
        applied = 0
        with self._changing, ThreadPoolExecutor(1, "index-follow") as ahead:
            if not self.sequence:                                   # everything is still to come
                for kind, count in self._catalogue.vector_counts(self.generation.generation_id).items():
                    self._indexes[kind].reserve(count)
            batch = _FIRST_BATCH
            changes = self._changes_after(self.sequence, batch)
            while changes.sequence != self.sequence:
                batch = min(2 * batch, _BATCH)
                following = ahead.submit(self._changes_after, changes.sequence, batch)  # read while the graph is built
                self._add(changes.added)
                self._remove(changes.removed)
                applied += len(changes.added) + len(changes.removed)
                self.sequence = changes.sequence
                changes = following.result()
        return applied

    def _changes_after(self, sequence: int, limit: int) -> Changes:
        return self._catalogue.changes(self.generation.generation_id, sequence, limit)

    def _add(self, added: Sequence[EmbeddingRow]) -> None:
        rows = sorted(added, key=lambda row: row.label)
        self._owners.put(rows)                                      # before the index knows: an answer finds its owner
        for kind in Kind:
            mine = [row for row in rows if row.kind is kind]
            if mine:
                labels = np.asarray([row.label for row in mine], dtype=np.int64)
                self._indexes[kind].add(labels, np.stack([row.vector for row in mine]))

    def _remove(self, labels: Sequence[int]) -> None:
        """Take labels out; one that came and went between two looks was never here."""
        kinds = {label: kind for label in labels if (kind := self._owners.kind_of(label)) is not None}
        for kind in Kind:
            mine = [label for label, held in kinds.items() if held is kind]
            if mine:
                self._indexes[kind].remove(mine)
        for label in kinds:
            self._owners.drop(label)

    def _agrees(self) -> bool:
        if self.sequence > self._catalogue.sequence():              # numbers above may be given a second time
            return False
        held = np.sort(np.concatenate([index.labels() for index in self._indexes.values()]))
        return np.array_equal(held, self._catalogue.labels(self.generation.generation_id))

    # ------------------------------------------------------------------------------------ asking

    def search(
        self,
        kind: Kind,
        vector: Float32,
        k: int,
        allowed_labels: Int64 | None = None,
        excluded_labels: Int64 | None = None,
    ) -> list[Neighbour]:
        """Return the nearest vectors of one kind by descending cosine, ties by label.

        Parameters
        ----------
        allowed_labels : ndarray of int64, optional
            Search among these only (`labels_of_studies` of the studies that pass the filters).
        excluded_labels : ndarray of int64, optional
            Leave these out: cheap for a few, such as the query study and the same patient's.
        """
        if excluded_labels is None or not len(excluded_labels):
            return self._indexes[kind].search(vector, k, allowed_labels)
        excluded = set(excluded_labels.tolist())
        found = self._indexes[kind].search(vector, k + len(excluded), allowed_labels)
        return [neighbour for neighbour in found if neighbour.label not in excluded][:k]

    def nearest(self, kind: Kind, vector: Float32, k: int, allowed_labels: Int64 | None = None) -> Neighbours:
        """Return what `search` does, as columns."""
        return self._indexes[kind].nearest(vector, k, allowed_labels)

    def owner(self, label: int) -> tuple[str, str] | None:
        """Return (StudyInstanceUID, SOPInstanceUID or "") of a label, or None if it has just been removed."""
        return self._owners.owner(label)

    def owners(self, labels: Int64, kind: Kind = Kind.JOINT, holds: bool | None = None) -> Owned:
        """See `Owners.owners`."""
        return self._owners.owners(labels, kind, holds)

    def sop_instance_uid(self, label: int) -> str:
        """See `Owners.sop_instance_uid`."""
        return self._owners.sop_instance_uid(label)

    def holds(self, kind: Kind, study_instance_uid: str) -> bool:
        """Return whether a study has a vector of this kind."""
        return self._owners.holds(kind, study_instance_uid)

    def labels_without(self, kind: Kind, has: Kind, lacks: Kind) -> Int64:
        """Return the labels in one index, ascending, of studies that have a vector of `has` and none of `lacks`."""
        return self._owners.labels_without(kind, has, lacks)

    def labels_of_studies(self, kind: Kind, study_instance_uids: Collection[str]) -> Int64:
        """Return the labels that studies have in one index, ascending."""
        return self._owners.labels_of(kind, study_instance_uids)

    def labels_of_study(self, study_instance_uid: str) -> dict[Kind, list[int]]:
        """Return the labels that a study has, ascending, by kind; no kind without any."""
        return self._owners.labels_of_study(study_instance_uid)

    def vectors(self, kind: Kind, labels: Sequence[int]) -> Float32:
        """Return the vectors of labels, float32 (n, dim)."""
        return self._indexes[kind].vectors(labels)

    def counts(self) -> dict[Kind, int]:
        """Return how many vectors can be found, by kind."""
        return {kind: len(index) for kind, index in self._indexes.items()}

    def probe_recall(self, kind: Kind, samples: int = 100, k: int = 10, seed: int = 0) -> float:
        """Return recall@k against exact search, of queries drawn from the index itself; 1.0 when it is empty.

        A neighbour counts as found when its cosine is at least the exact k-th's (ties are as good).
        """
        index = self._indexes[kind]
        labels = index.labels()
        if not len(labels) or k < 1:
            return 1.0
        chosen = np.random.default_rng(seed).choice(labels, size=min(samples, len(labels)), replace=False)
        found = wanted = 0
        for label in chosen.tolist():
            try:
                query = index.vectors([label])[0]
            except BadLabel:                                        # removed just now
                continue
            exact = index.exact(query, k)
            found += sum(answer.similarity >= exact[-1].similarity - 1e-6 for answer in index.search(query, k))
            wanted += len(exact)
        return min(1.0, found / wanted) if wanted else 1.0

    def keep_recall(self, wanted: float = 0.99) -> dict[Kind, float]:
        """Return each kind's `probe_recall` after making searches go deeper, while they find less than wanted and can.
        """
        recalls = {}
        for kind, index in self._indexes.items():
            recall = self.probe_recall(kind)
            while recall < wanted and index.deepen():
                log.info("index.deepened", kind=kind.value, recall_at_10=round(recall, 4))
                recall = self.probe_recall(kind)
            recalls[kind] = recall
        return recalls

    # ------------------------------------------------------------------------------------ snapshots

    def snapshot(self) -> bool:
        """Write a snapshot unless nothing has changed since the last; return whether one was written.

        `follow` waits meanwhile, searches don't (but for hnswlib's save, which holds the GIL).
        """
        with self._changing:
            if self.sequence == self._snapshot_sequence:
                return False
            save_snapshot(self._directory, self._save_files, self._manifest())
            self._snapshot_sequence = self.sequence
        log.info("index.snapshot_written", generation=self.generation.generation_id, sequence=self.sequence)
        return True

    def _manifest(self) -> SnapshotManifest:
        return SnapshotManifest(
            engine=self._settings.type,
            space="cosine",
            dim=self.generation.dim,
            parameters=self._graph_parameters(),
            counts={kind.value: count for kind, count in self.counts().items()},
            sequence=self.sequence,
            generation_id=self.generation.generation_id,
            fingerprint=self.generation.fingerprint,
        )

    def _graph_parameters(self) -> dict[str, int]:
        """Return what a graph on disk depends on: ef and threads may change without a rebuild."""
        return {"m": self._settings.m, "ef_construction": self._settings.ef_construction}

    def _save_files(self, folder: Path) -> None:
        for kind, index in self._indexes.items():
            (folder / kind.value).mkdir()
            index.save(folder / kind.value)
        self._owners.save(folder)

    def _restore(self) -> bool:
        expected = self._manifest()
        loaded = load_snapshot(self._directory, expected, self._load_files)
        if loaded is None:
            return False
        (self._indexes, self._owners), manifest = loaded
        self.sequence = self._snapshot_sequence = manifest.sequence
        return True

    def _load_files(
        self, folder: Path, manifest: SnapshotManifest
    ) -> tuple[dict[Kind, LabelledIndex], Owners]:
        owners = Owners.load(folder, self.numbers)
        indexes = {
            kind: engine(self._settings.type).load(
                folder / kind.value, self.generation.dim, **self._settings.parameters()
            )
            for kind in Kind
        }
        for kind, index in indexes.items():
            if len(index) != manifest.counts[kind.value]:
                raise StorageError(f"the snapshot's {kind} index holds another number of vectors than its manifest")
        return indexes, owners


__all__ = ["IndexSet", "IndexSettings"]
