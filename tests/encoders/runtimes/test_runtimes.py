"""Optional runtimes give what torch gives, through the seam that worker and commands use."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.checkpoint import model_info, sha256_of
from encoders.phantom import draw
from encoders.preprocess import sheet_shape
from encoders.registry import load_encoder
from encoders.runtimes import OPTIONAL, RuntimeChoice, RuntimeUnusable, missing_packages, require
from encoders.runtimes.choosing import LEAST_COSINE, Probe
from encoders.runtimes.cutting import cut
from encoders.runtimes.engines import ENGINES, TorchEngine
from encoders.runtimes.graph import OUTPUTS, GraphFile, ImageGraph

DATA = Path(os.environ.get("CXRFIND_TEST_DATA", "/nonexistent")) / "cxr"
INSTALLED = [name for name in OPTIONAL if not missing_packages(name)]
runtimes = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"install cxrfind[{name}]"))
    for name in OPTIONAL
])  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """Return 120 radiographs where there are some, else 12 phantoms."""
    if not DATA.is_dir():
        return [draw(seed, 200)[0] for seed in range(100, 112)]
    with (DATA / "studies.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "iu-xray-openi"]
    return [
        np.asarray(Image.open(DATA / row["image_path"]).convert("L"), np.float32) / 255
        for row in rows[:: len(rows) // 120][:120]
    ]


@pytest.fixture(scope="module")
def by_torch(images):
    return load_encoder(threads=2).encode_images(images)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runtime")


def opened(name, cache, precision="f32"):
    return load_encoder(threads=2, runtime=RuntimeChoice(name, precision, cache))


@pytest.fixture
def exported(cache, images, tmp_path):
    """Return a folder of one's own with the exported model; an export takes half a minute."""
    opened(INSTALLED[0], cache).encode_images(images[:1])
    return Path(shutil.copytree(cache, tmp_path / "runtime"))


def overlap_at_ten(ours, theirs):
    """Return the mean share of the ten nearest neighbours that two sets of vectors have in common."""
    nearest = []
    for vectors in (ours, theirs):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        nearest.append(np.argsort(-cosines, axis=1)[:, :10])
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*nearest, strict=True)])


@runtimes
def test_a_runtime_gives_the_vectors_and_probabilities_of_torch(name, cache, images, by_torch):
    encoder = opened(name, cache)
    encoding = encoder.encode_images(images)
    assert encoder.runtime == f"{name} f32"
    assert (encoding.embeddings * by_torch.embeddings).sum(1).min() >= 0.999
    assert overlap_at_ten(encoding.embeddings, by_torch.embeddings) >= 0.98
    for ours, theirs in (
        (encoding.findings, by_torch.findings),
        (encoding.chest, by_torch.chest),
        (encoding.frontal, by_torch.frontal),
    ):
        assert np.abs(ours - theirs).max() < 1e-3


@runtimes
def test_an_image_gets_the_same_vector_in_any_batch_of_any_runtime(name, cache, images):
    encoder = opened(name, cache)
    together = encoder.encode_images(images[:5]).embeddings
    alone = [encoder.encode_images([image]).embeddings[0] for image in images[:5]]
    assert (together * np.stack(alone)).sum(1).min() > 0.99999


@pytest.mark.skipif("openvino" not in INSTALLED, reason="install cxrfind[openvino]")
def test_bfloat16_keeps_the_ten_nearest_or_is_refused(cache, images, by_torch):
    if "bf16" not in ENGINES["openvino"].precisions():
        with pytest.raises(RuntimeUnusable, match="does not compute in bf16 on this CPU"):
            opened("openvino", cache, "bf16").encode_images(images[:1])
        return
    encoder = opened("openvino", cache, "f32")
    encoder.encode_images(images[:1])
    engine = ENGINES["openvino"](next(cache.glob("*.onnx")), "bf16", 2)
    inputs = [encoder._inputs([image])[:, None] for image in images]
    unchecked = np.concatenate([encoder._finish(engine(each))[0] for each in inputs])
    cosines = (unchecked * by_torch.embeddings).sum(1)
    kept, refusal = 0.0, ""
    try:
        kept = overlap_at_ten(opened("openvino", cache, "bf16").encode_images(images).embeddings, by_torch.embeddings)
    except RuntimeUnusable as refused:
        refusal = str(refused)
    if refusal:
        assert "openvino bf16: cosine 0.9" in refusal
        assert cosines.min() < LEAST_COSINE                                 # of these images, too: no false alarm
    else:
        assert kept >= 0.98


@pytest.mark.skipif("openvino" not in INSTALLED, reason="install cxrfind[openvino]")
def test_bfloat16_after_the_early_layers_keeps_vectors_and_the_ten_nearest(cache, images, by_torch):
    if "mixed" not in ENGINES["openvino"].precisions():
        pytest.skip("this CPU has no bfloat16")
    encoder = opened("openvino", cache, "mixed")
    encoding = encoder.encode_images(images)
    assert encoder.runtime == "openvino mixed"
    assert (encoding.embeddings * by_torch.embeddings).sum(1).min() >= LEAST_COSINE
    assert overlap_at_ten(encoding.embeddings, by_torch.embeddings) >= 0.98
    assert np.abs(encoding.findings - by_torch.findings).max() < 0.03
    assert not np.array_equal(encoding.embeddings, opened("openvino", cache).encode_images(images).embeddings)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="install cxrfind[openvino]")
def test_a_model_cut_in_two_computes_what_it_did_whole(cache):
    import openvino

    core, least = openvino.Core(), 20
    encoder = opened("openvino", cache)
    encoder.encode_images([draw(1, 200)[0]])
    path = next(cache.glob("*.onnx"))
    inputs = encoder._inputs([draw(seed, 200)[0] for seed in (2, 3)])[:, None]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    whole = core.compile_model(core.read_model(path), "CPU", exact)(inputs)
    front, back = cut(core.read_model(path), least)
    assert all(output.get_partial_shape()[2].get_length() >= least for output in front.outputs)
    maps = core.compile_model(front, "CPU", exact)(inputs)
    found = core.compile_model(back, "CPU", exact)(list(maps.values()))
    for name in OUTPUTS:
        assert np.allclose(found[name], whole[name], atol=1e-4)
    with pytest.raises(ValueError, match="no feature maps of 10000 rows"):
        cut(core.read_model(path), 10_000)


def test_auto_computes_with_something_that_agrees_and_says_what(cache, images, by_torch):
    encoder = opened("auto", cache, "auto")
    assert encoder.runtime == "auto"
    embeddings = encoder.encode_images(images[:16]).embeddings
    assert encoder.runtime.split()[0] in ("torch", *INSTALLED)
    assert (embeddings * by_torch.embeddings[:16]).sum(1).min() >= 0.999


class Remembering(TorchEngine):
    """Computes by torch, and writes down whose turn it was."""

    def __init__(self, name, graph, turns):
        super().__init__(graph, torch.device("cpu"))
        self.name, self.turns = name, turns

    def __call__(self, inputs):
        self.turns.append(self.name)
        return super().__call__(inputs)


def test_engines_are_timed_by_turns():
    """What else the machine does at one moment must not decide between them."""
    encoder, turns = load_encoder(threads=2), []
    graph = ImageGraph(encoder.model)
    engines = [Remembering(name, graph, turns) for name in ("one", "other")]
    inputs = encoder._inputs([draw(1, 200)[0]])[:, None]
    times = Probe(inputs, encoder._finish).seconds(engines)
    assert turns == ["one", "other"] * (len(turns) // 2)
    assert len(turns) > 2
    assert times.keys() == {"one", "other"}
    assert all(0 < seconds < float("inf") for seconds in times.values())


def test_auto_computes_with_torch_where_nothing_can_be_exported(tmp_path, images, by_torch):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    encoder = opened("auto", occupied / "runtime")
    assert np.array_equal(encoder.encode_images(images[:2]).embeddings.argmax(1), by_torch.embeddings[:2].argmax(1))
    assert encoder.runtime == "torch f32"


@runtimes
def test_a_runtime_that_was_named_is_not_replaced_where_its_cache_cannot_be_written(name, tmp_path, images):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with pytest.raises(RuntimeUnusable, match="cannot be written"):
        opened(name, occupied / "runtime").encode_images(images[:1])


def test_texts_need_no_runtime_to_be_opened(tmp_path):
    encoder = opened(INSTALLED[0] if INSTALLED else "auto", tmp_path / "runtime")
    encoder.encode_text("pleural effusion")
    assert not (tmp_path / "runtime").exists()


@pytest.mark.skipif(not INSTALLED, reason="no optional runtime is installed")
def test_the_model_is_exported_once_and_again_when_its_file_is_damaged(exported, images):
    folder = exported
    first = opened(INSTALLED[0], folder).encode_images(images[:1]).embeddings
    (file,) = folder.glob("*.onnx")
    assert model_info().fingerprint[:16] in file.name
    written = file.stat().st_mtime_ns, file.stat().st_ino
    opened(INSTALLED[-1], folder).encode_images(images[:1])
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    again = opened(INSTALLED[0], folder).encode_images(images[:1]).embeddings
    assert file.read_bytes() != bytes(data)
    assert (again * first).sum() == pytest.approx(1, abs=1e-4)
    assert not list(folder.glob("*.part"))


@pytest.mark.skipif(not INSTALLED, reason="no optional runtime is installed")
def test_a_file_that_computes_something_else_is_refused_though_its_checksum_is_right(exported, images):
    import onnx
    from onnx import numpy_helper

    folder = exported
    (file,) = folder.glob("*.onnx")
    model = onnx.load(file)
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(model, file)
    file.with_suffix(".sha256").write_text(sha256_of(file))
    with pytest.raises(RuntimeUnusable, match="cosine"):
        opened(INSTALLED[0], folder).encode_images(images[:1])
    encoder = opened("auto", folder)
    encoder.encode_images(images[:1])
    assert encoder.runtime == "torch f32"


@runtimes
def test_a_file_that_a_runtime_cannot_open_is_refused_and_auto_computes_with_torch(name, tmp_path, images):
    encoder = opened("auto", tmp_path)
    graph = ImageGraph(encoder._model)
    file = GraphFile(graph, sheet_shape(encoder.constants.sizes), encoder.fingerprint, tmp_path).path
    file.write_bytes(b"no model")
    file.with_suffix(".sha256").write_text(sha256_of(file))
    with pytest.raises(RuntimeUnusable, match=f"{name} .*RuntimeError"):
        opened(name, tmp_path).encode_images(images[:1])
    encoder.encode_images(images[:1])
    assert encoder.runtime == "torch f32"


@runtimes
def test_a_runtime_sends_no_usage_data_and_leaves_no_identifier(name, tmp_path, cache, images):
    encoder = opened(name, cache)
    encoder.encode_images(images[:1])               # so that there is a file
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from encoders.runtimes.engines import ENGINES\n"
        "shape = int(sys.argv[3]), int(sys.argv[4])\n"
        "ENGINES[sys.argv[1]](Path(sys.argv[2]), 'f32', 1)(numpy.zeros((1, 1, *shape), 'f4'))"
    )
    # without the variables by which the packages see a build server, where they keep quiet by themselves
    arguments = [name, str(next(cache.glob("*.onnx"))), *map(str, sheet_shape(encoder.constants.sizes))]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, cwd=Path(__file__).parents[3], check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_package_is_named_with_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)    # for the import system: not installed
    with pytest.raises(RuntimeUnusable, match=rf"{name} is not installed: pip install 'cxrfind\[{name}\]'"):
        load_encoder(runtime=RuntimeChoice(name))


def test_auto_is_torch_where_nothing_is_installed(monkeypatch, tmp_path, images):
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, None)
    encoder = opened("auto", tmp_path / "runtime")
    encoder.encode_images(images[:1])
    assert encoder.runtime == "torch f32"
    assert not (tmp_path / "runtime").exists()


@runtimes
def test_a_cpu_runtime_and_a_cuda_device_exclude_each_other(name):
    with pytest.raises(RuntimeUnusable, match=r'encoder\.device is "cuda"'):
        require(name, "cuda")


def test_the_runtimes_have_a_class_and_an_extra_each():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(OPTIONAL) == set(ENGINES)
    assert set(OPTIONAL) <= set(extras)


def test_a_model_that_looks_twice_is_not_exported(tmp_path):
    encoder = load_encoder(threads=1)
    encoder._model.attention = "crop"
    with pytest.raises(RuntimeUnusable, match="attention"):
        GraphFile(ImageGraph(encoder._model), (160, 160), encoder.fingerprint, tmp_path).ready()
    assert not list(tmp_path.glob("*.onnx"))


def test_an_encoder_of_somebody_else_chooses_for_itself():
    with pytest.raises(RuntimeUnusable, match="leave it out"):
        load_encoder("somebodys_encoder:Borrowed", runtime=RuntimeChoice("openvino"))
