"""Snapshots: whole or not used."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from storage.base import StorageError
from storage.snapshot import SnapshotManifest, load_snapshot, save_snapshot

MANIFEST = SnapshotManifest(
    engine="hnsw",
    space="cosine",
    dim=16,
    parameters={"m": 24, "ef_construction": 200},
    counts={"IMAGE": 3},
    sequence=7,
    generation_id=1,
    fingerprint="a" * 64,
)


def save(root, content=b"content", **changes):
    def write(folder):
        (folder / "IMAGE").mkdir()
        (folder / "IMAGE" / "graph").write_bytes(content * 1000)
        (folder / "owners").write_bytes(content)

    return save_snapshot(root, write, replace(MANIFEST, **changes))


def load(root, expected=MANIFEST):
    return load_snapshot(root, expected, lambda folder, _: (folder / "owners").read_bytes())


def test_what_was_saved_is_loaded_with_its_manifest(tmp_path):
    save(tmp_path)
    content, manifest = load(tmp_path)
    assert content == b"content"
    assert replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == {"IMAGE/graph", "owners"}


def test_the_newest_is_used_and_two_are_kept(tmp_path):
    for sequence in (7, 8, 100, 99):
        save(tmp_path, b"%d" % sequence, sequence=sequence)
    assert load(tmp_path)[0] == b"100"
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_loaded_where_nothing_is(tmp_path):
    assert load(tmp_path / "nowhere") is None
    assert load(tmp_path) is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "bit rot": lambda folder: flip(folder / "IMAGE" / "graph"),
    "truncated": lambda folder: os.truncate(folder / "owners", 3),
    "longer": lambda folder: (folder / "owners").write_bytes(b"contentcontent"),
    "a file missing": lambda folder: (folder / "IMAGE" / "graph").unlink(),
    "a file added": lambda folder: (folder / "IMAGE" / "more").write_bytes(b""),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "rot in the manifest": lambda folder: flip(folder / "manifest.json"),
    "half a manifest": lambda folder: os.truncate(folder / "manifest.json", 100),
    "an empty manifest": lambda folder: os.truncate(folder / "manifest.json", 0),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_snapshot_gives_way_to_the_older_one(tmp_path, damage):
    save(tmp_path, b"older", sequence=5)
    DAMAGES[damage](save(tmp_path, b"newer", sequence=6))
    content, manifest = load(tmp_path)
    assert (content, manifest.sequence) == (b"older", 5)


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_with_only_a_damaged_snapshot_there_is_none(tmp_path, damage):
    DAMAGES[damage](save(tmp_path))
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "b" * 64},
        {"dim": 17},
        {"generation_id": 2},
        {"engine": "exact"},
        {"space": "l2"},
        {"parameters": {"m": 16, "ef_construction": 200}},
        {"format_version": 1},
    ],
)
def test_a_snapshot_of_another_model_engine_or_setting_is_passed_over(tmp_path, other):
    save(tmp_path)
    assert load(tmp_path, replace(MANIFEST, **other)) is None


def test_a_reader_that_makes_no_sense_of_it_gets_the_older_one(tmp_path):
    save(tmp_path, b"older", sequence=5)
    save(tmp_path, b"newer", sequence=6)

    def read(folder, _):
        content = (folder / "owners").read_bytes()
        if content == b"newer":
            raise StorageError("labels contradict themselves")
        return content

    assert load_snapshot(tmp_path, MANIFEST, read)[0] == b"older"


def test_a_writer_that_fails_leaves_the_former_snapshot_and_no_rest(tmp_path):
    save(tmp_path)

    def write(folder):
        (folder / "half").write_bytes(b"1")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_snapshot(tmp_path, write, replace(MANIFEST, sequence=9))
    assert [path.name for path in tmp_path.iterdir()] == [f"snapshot-{7:020d}"]
    assert load(tmp_path)[0] == b"content"


SAVER = """
import sys, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_snapshot", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for sequence in range(1, 1_000_000):
    module.save(Path(sys.argv[2]), b"%d" % sequence, sequence=sequence)
    print(sequence, flush=True)
"""


@pytest.mark.parametrize("run", range(3))
def test_killed_while_saving_a_whole_snapshot_is_there(tmp_path, run):
    command = [sys.executable, "-c", SAVER, __file__, str(tmp_path)]
    saver = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2], text=True)
    try:
        for _ in range(4 + run):
            saver.stdout.readline()
        time.sleep(0.002 * run)
    finally:
        os.kill(saver.pid, signal.SIGKILL)
    saved = 4 + run + sum(line.endswith("\n") for line in saver.stdout.readlines())
    saver.wait()
    saver.stdout.close()
    content, manifest = load(tmp_path)
    assert manifest.sequence >= saved
    assert content == b"%d" % manifest.sequence
    save(tmp_path, sequence=10**9)
    assert load(tmp_path)[1].sequence == 10**9
    assert len(list(tmp_path.iterdir())) == 2
