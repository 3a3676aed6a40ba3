"""Towers side by side: an ensemble that is one tower to everybody else."""

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.preprocess import Preprocessing, sheet, squeeze, standardise
from encoders.towers.image import TowerError, build_image_tower
from encoders.towers.model import DIRECT_SHARE
from encoders.training.arrays import build_arrays, cached_images
from encoders.training.augment import plain, standardised
from encoders.training.build import load_run
from encoders.training.experiment import ImageSection
from encoders.training.export import ExportOptions, export
from encoders.training.features import with_features
from encoders.training.project import ProjectionOptions
from encoders.training.selection import select
from encoders.training.stack import StackError, stack_runs
from encoders.training.trainer import train


def test_each_member_sees_the_image_at_its_own_size_and_its_channels_lie_behind_the_others():
    torch.manual_seed(0)
    tower = build_image_tower("efficientnet-lite0@64+efficientnet-lite0@96", pretrained=False).eval()
    constants = Preprocessing(size=96, others=(64,))
    pixels = [draw(seed, 200)[0] for seed in (1, 2)]
    sheets = torch.from_numpy(standardise(np.stack([sheet(image, (96, 64)) for image in pixels]), constants))[:, None]
    alone = []
    with torch.inference_mode():
        for member, size in zip(tower.members, (64, 96), strict=True):
            squares = standardise(np.stack([squeeze(image, size) for image in pixels]), Preprocessing(size=size))
            alone.append(member.pooled(torch.from_numpy(squares)[:, None]))
        pooled, maps = tower.pooled(sheets), tower(sheets)
    assert tower.channels == pooled.shape[1] == maps.shape[1] == 2560
    torch.testing.assert_close(pooled, torch.cat(alone, 1))
    torch.testing.assert_close(maps.mean((2, 3)), pooled, atol=1e-5, rtol=1e-4)


def test_files_and_squares_are_made_into_the_same_kind_of_sheet(tmp_path):
    picture = (draw(3, 150)[0] * 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    (bytes_,) = cached_images([tmp_path / "one.png"], (96, 64), tmp_path / "cache")
    constants = Preprocessing(size=96, others=(64,))
    expected = standardise(sheet(picture.astype(np.float32) / 255, (96, 64))[None], constants)
    of_file = standardised(plain(torch.from_numpy(np.array(bytes_))[None], (96, 64)), constants)
    of_square = standardised(plain(torch.from_numpy(picture)[None], (96, 64)), constants)
    assert of_file.shape == of_square.shape == (1, 1, 96, 160)
    torch.testing.assert_close(of_file[0], torch.from_numpy(expected), atol=0.02, rtol=0)      # rounded to bytes
    torch.testing.assert_close(of_square[0], torch.from_numpy(expected), atol=0.02, rtol=0)


def test_sizes_that_do_not_fit_are_refused_before_anything_runs():
    both = "efficientnet-lite0@64+efficientnet-lite0@96"
    with pytest.raises(ValueError, match="largest in tower is 96"):
        ImageSection(tower=both, size=64)
    with pytest.raises(ValueError, match='set attention = "none"'):
        ImageSection(tower=both, size=96, attention="crop")
    assert ImageSection(tower=both, size=96).preprocessing.sizes == (96, 64)
    assert ImageSection(tower="efficientnet-lite0+efficientnet-lite0", size=96).preprocessing.sizes == (96,)


def test_a_size_that_is_no_number_is_refused_in_a_sentence():
    with pytest.raises(TowerError, match="efficientnet-lite0@160"):
        build_image_tower("efficientnet-lite0@large", pretrained=False)


@pytest.fixture
def trained(tmp_path, small_experiment):
    """Return a function seed, direct -> the folder of a run."""

    def run(seed, direct=True):
        experiment = small_experiment(tmp_path, 1, direct)
        train(experiment.model_copy(update={"seed": seed}), tmp_path / f"run-{seed}")
        return tmp_path / f"run-{seed}"

    return run


def _logits(model, images):
    features = model.image_features(images)
    through = model.subspace.predict(model.subspace(features, "image"), "findings")
    return through + DIRECT_SHARE * model.direct["findings"](features)


def test_a_stacked_run_predicts_the_mean_of_what_its_members_predict(tmp_path, trained):
    runs = [trained(1), trained(2)]
    stacked = load_run(stack_runs(runs, tmp_path / "both")).model
    run = load_run(runs[0])
    arrays = build_arrays(select(run.experiment, "train"), run.vocabularies, (32,), tmp_path)
    images = standardised(plain(torch.from_numpy(np.array(arrays.images)), (32,)), Preprocessing(size=32))
    with torch.inference_mode():
        each = [_logits(load_run(run).model, images) for run in runs]
        both = _logits(stacked, images)
    mean = (each[0] + each[1]) / 2
    assert (both - mean).abs().mean() < 0.2 * (each[0] - mean).abs().mean()


def test_a_stacked_run_reads_reports_as_its_first_member_does(tmp_path, trained):
    runs = [trained(1), trained(2)]
    stacked = load_run(stack_runs(runs, tmp_path / "both")).model
    first = load_run(runs[0]).model
    with torch.inference_mode():
        texts = ["heart size is normal"]
        for one, other in zip(stacked.embed_texts(texts), first.embed_texts(texts), strict=True):
            assert torch.equal(one, other)


def test_a_checkpoint_and_a_run_are_stacked_and_exported_as_one_model(tmp_path, trained):
    projection = ProjectionOptions(appearance_dim=20)
    small = ExportOptions(projection=projection, negatives=12)
    checkpoint = export(trained(1), tmp_path / "checkpoint", small)
    both = export(stack_runs([checkpoint, trained(2)], tmp_path / "both"), tmp_path / "ensemble", small)
    encoder = CommonSubspaceEncoder.load(both, "cpu", 1)
    assert encoder.encode_images([draw(99, 64)[0]]).embeddings.shape == (1, 32)
    three = load_run(stack_runs([both, trained(3)], tmp_path / "three"))
    assert three.experiment.image.tower == "+".join(["efficientnet-lite0@32"] * 3)
    with torch.inference_mode():
        image = torch.from_numpy(encoder._inputs([draw(98, 64)[0]])).unsqueeze(1)
        two, one = load_run(tmp_path / "both").model, load_run(tmp_path / "run-3").model
        alone = torch.cat([two.image_features(image), one.image_features(image)], 1)
        torch.testing.assert_close(three.model.image_features(image), alone, atol=1e-2, rtol=1e-2)  # half precision


def test_a_checkpoint_in_eight_bits_gives_the_vectors_of_one_in_sixteen(tmp_path, trained):
    run, images = trained(1), [draw(seed, 64)[0] for seed in range(90, 98)]
    projection = ProjectionOptions(appearance_dim=20)
    vectors = {}
    for precision in ("float16", "int8"):
        options = ExportOptions(projection=projection, negatives=12, precision=precision)
        folder = export(run, tmp_path / precision, options)
        vectors[precision] = CommonSubspaceEncoder.load(folder, "cpu", 1).encode_images(images).embeddings
    cosines = (vectors["float16"] * vectors["int8"]).sum(1)
    assert cosines.mean() > 0.99
    assert (cosines < 1 - 1e-6).any()


def test_models_that_cannot_be_stacked_are_named(tmp_path, trained):
    with pytest.raises(StackError, match="no direct predictions"):
        stack_runs([trained(1), trained(2, direct=False)], tmp_path / "both")


def test_features_of_towers_that_attend_together_are_what_the_model_computes(tmp_path, trained):
    run, constants = load_run(trained(1)), Preprocessing(size=128)
    torch.manual_seed(0)
    run.model.image_tower = build_image_tower("efficientnet-lite0+efficientnet-lite0", pretrained=False).eval()
    arrays = build_arrays(select(run.experiment, "val"), run.vocabularies, (128,), tmp_path)
    images = standardised(plain(torch.from_numpy(np.array(arrays.images)), (128,)), constants)
    found = {}
    for attention in ("none", "crop"):
        run.model.attention = attention
        with torch.inference_mode():
            expected = run.model.image_features(images)
        found[attention] = torch.from_numpy(with_features(run.model, arrays, constants, tmp_path).images)
        torch.testing.assert_close(found[attention], expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found["none"], found["crop"], atol=1e-3)
