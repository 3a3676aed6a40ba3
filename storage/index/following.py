"""The three indexes of one generation, kept level with the Catalogue: what the finder holds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from storage.base import Catalogue, EmbeddingRow, Float32, Generation, Int64, Kind, Neighbour, StorageError
from storage.index.registry import LabelledIndex, engine
from storage.index.table import BadLabel
from storage.snapshot import SnapshotManifest, load_snapshot, save_snapshot

log = structlog.get_logger(__name__)

_OWNERS_FILE = "owners.tsv"
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Which engine, and its parameters; names as in the section ``[index]`` of the configuration.

    `threads`: of additions; 0 for all cores, 1 for reproducible answers.
    """

    type: str = "hnsw"
    m: int = 24
    ef_construction: int = 200
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


@dataclass(slots=True)
class _Owners:
    """Which study and instance a label stands for, and the labels of a study."""

    by_label: dict[int, tuple[Kind, str, str]] = field(default_factory=dict)
    by_study: dict[tuple[Kind, str], tuple[int, ...]] = field(default_factory=dict)

    def put(self, label: int, kind: Kind, study_instance_uid: str, sop_instance_uid: str) -> None:
        self.by_label[label] = (kind, study_instance_uid, sop_instance_uid)
        key = (kind, study_instance_uid)
        self.by_study[key] = (*self.by_study.get(key, ()), label)

    def drop(self, label: int) -> None:
        kind, study_instance_uid, _ = self.by_label.pop(label)
        key = (kind, study_instance_uid)
        left = tuple(other for other in self.by_study[key] if other != label)
        if left:
            self.by_study[key] = left
        else:
            del self.by_study[key]


class IndexSet:
    """Three vector indexes (IMAGE, REPORT, JOINT) of one generation that follow the Catalogue.

    Safe to call from many threads: searches go on while `follow`, `snapshot` and `probe_recall` run.

    Attributes
    ----------
    generation : Generation
    sequence : int
        The Catalogue's sequence number up to which changes have been applied.
    """

    def __init__(self, catalogue: Catalogue, generation: Generation, directory: Path, settings: IndexSettings) -> None:
        """Make an empty set; use `open`, which fills it."""
        self.generation = generation
        self.sequence = 0
        self._catalogue = catalogue
        self._directory = directory / f"generation-{generation.generation_id}"
        self._settings = settings
        self._changing = threading.Lock()
        self._snapshot_sequence = -1
        self._owners = _Owners()
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
    ) -> IndexSet:
        """Return a set level with the Catalogue: from the newest sound snapshot and what came after, else rebuilt.

        Parameters
        ----------
        directory : Path
            Folder of the snapshots; made when missing, may be deleted at any time while the service is stopped.
        """
        opened = cls(catalogue, generation, directory, settings or IndexSettings())
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
            opened = cls(catalogue, generation, directory, opened._settings)
        opened.follow()
        log.info("index.rebuilt", generation=generation.generation_id, vectors=sum(opened.counts().values()))
        return opened

    # ------------------------------------------------------------------------------------ following

    def follow(self) -> int:
        """Apply what happened in the Catalogue since the last call; return how many vectors came or went."""
        applied = 0
        with self._changing:
            while True:
                changes = self._catalogue.changes(self.generation.generation_id, self.sequence, _BATCH)
                for kind in Kind:
                    self._add(kind, [row for row in changes.added if row.kind is kind])
                self._remove(changes.removed)
                applied += len(changes.added) + len(changes.removed)
                if changes.sequence == self.sequence:
                    return applied
                self.sequence = changes.sequence

    def _add(self, kind: Kind, rows: Sequence[EmbeddingRow]) -> None:
        if not rows:
            return
        rows = sorted(rows, key=lambda row: row.label)
        for row in rows:                                            # before the index knows: an answer finds its owner
            self._owners.put(row.label, kind, row.study_instance_uid, row.sop_instance_uid)
        labels = np.asarray([row.label for row in rows], dtype=np.int64)
        self._indexes[kind].add(labels, np.stack([row.vector for row in rows]))

    def _remove(self, labels: Sequence[int]) -> None:
        """Take labels out; one that came and went between two looks was never here."""
        known = [label for label in labels if label in self._owners.by_label]
        for kind in Kind:
            mine = [label for label in known if self._owners.by_label[label][0] is kind]
            if mine:
                self._indexes[kind].remove(mine)
        for label in known:
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

    def owner(self, label: int) -> tuple[str, str] | None:
        """Return (StudyInstanceUID, SOPInstanceUID or "") of a label, or None if it has just been removed."""
        known = self._owners.by_label.get(label)
        return None if known is None else known[1:]

    def holds(self, kind: Kind, study_instance_uid: str) -> bool:
        """Return whether a study has a vector of this kind."""
        return (kind, study_instance_uid) in self._owners.by_study

    def studies_without(self, kind: Kind, other: Kind) -> list[str]:
        """Return the studies that have a vector of `kind` and none of `other`."""
        by_study = self._owners.by_study
        return [uid for held, uid in list(by_study) if held is kind and (other, uid) not in by_study]

    def labels_of_studies(self, kind: Kind, study_instance_uids: Collection[str]) -> Int64:
        """Return the labels that studies have in one index, ascending."""
        by_study = self._owners.by_study
        labels = [label for uid in study_instance_uids for label in by_study.get((kind, uid), ())]
        return np.sort(np.asarray(labels, dtype=np.int64))

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
        queries = index.vectors(chosen.tolist())
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for start in range(0, len(labels), _BATCH):
            try:
                cosines = queries @ index.vectors(labels[start : start + _BATCH].tolist()).T
            except BadLabel:                                        # one was removed just now: leave these out
                continue
            best = np.partition(np.hstack([best, cosines]), -k, axis=1)[:, -k:]
        found = sum(
            answer.similarity >= exact.min() - 1e-6
            for query, exact in zip(queries, best, strict=True)
            for answer in index.search(query, k)
        )
        return min(1.0, int(found) / (len(queries) * min(k, len(labels))))

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
        lines = (
            f"{label}\t{kind.value}\t{study}\t{sop}\n" for label, (kind, study, sop) in self._owners.by_label.items()
        )
        (folder / _OWNERS_FILE).write_text("".join(lines), encoding="utf-8")

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
    ) -> tuple[dict[Kind, LabelledIndex], _Owners]:
        owners = _Owners()
        kinds: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
        strings: dict[str, str] = {}                                # one object for a UID that stands in many rows
        for line in (folder / _OWNERS_FILE).read_text(encoding="utf-8").splitlines():
            label, kind, study, sop = line.split("\t")
            owners.put(int(label), kinds[kind], strings.setdefault(study, study), strings.setdefault(sop, sop))
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
