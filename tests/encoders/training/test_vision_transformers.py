"""torchvision's vision transformers as image towers like any other: sizes, weights files, training, checkpoint."""

import pytest
import torch

from encoders.common_subspace import CommonSubspaceEncoder
from encoders.explanation import explain
from encoders.phantom import draw
from encoders.runtimes import OPTIONAL, RuntimeChoice, missing_packages
from encoders.towers.image import IMAGE_TOWERS, TowerError, build_image_tower, take_weights, tower_of
from encoders.towers.torchvision_ops import declare_missing_operators
from encoders.training.build import build_model, load_run
from encoders.training.export import ExportOptions, export
from encoders.training.project import ProjectionOptions
from encoders.training.soup import average_runs
from encoders.training.stack import stack_runs
from encoders.training.trainer import train

declare_missing_operators()
import torchvision.models as zoo  # noqa: E402


def vit(side=64):
    return zoo.VisionTransformer(side, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


def maxvit(side=56):
    return zoo.MaxVit((side, side), 8, 7, [16, 32], [1, 1], head_dim=8, stochastic_depth_prob=0.1)


#: Small models, the step of the sides that they take, and one of them: for ViT another than it is built for.
SMALL = {"vit": (vit, 16, 96), "maxvit": (maxvit, 56, 56)}


@pytest.fixture(params=sorted(SMALL))
def small(request, monkeypatch):
    """Add a small tower to the table; return (name, what makes torchvision's model, step of its sides, a side)."""
    make, step, side = SMALL[request.param]
    monkeypatch.setitem(IMAGE_TOWERS, f"small-{request.param}", lambda pretrained, drop_path: tower_of(make()))
    return f"small-{request.param}", make, step, side


def maps_of(model, images):
    """Return torchvision's own last maps of grey images."""
    images = images.repeat(1, 3, 1, 1)
    if isinstance(model, zoo.MaxVit):
        images = model.stem(images)
        for block in model.blocks:
            images = block(images)
        return images
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), model._process_input(images)], 1)
    side = images.shape[2] // model.patch_size
    return model.encoder(tokens)[:, 1:].transpose(1, 2).reshape(len(images), -1, side, side)


@pytest.mark.parametrize(("name", "old"), [("vit_b_32", False), ("vit_b_32", True), ("maxvit_t", False)])
def test_a_file_of_torchvisions_weights_gives_its_last_maps_of_a_grey_picture(tmp_path, name, old):
    model = zoo.get_model(name, weights=None).eval()
    state = model.state_dict()
    if old:                                                         # as the files of 2021 were written
        state = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): state[key] for key in state}
    tower = build_image_tower(f"torchvision:{name}", False).eval()
    take_weights(tower, state, tmp_path / "w.pth")
    images = torch.randn(1, 1, 224, 224)
    with torch.inference_mode():
        maps = tower(images)
        torch.testing.assert_close(maps, maps_of(model, images), atol=1e-4, rtol=1e-4)
    assert maps.shape == (1, tower.channels, 7, 7)
    with pytest.raises(TowerError, match="not the tensors of this image tower"):
        take_weights(tower, zoo.resnet18().state_dict(), tmp_path / "w.pth")


def test_a_larger_picture_is_seen_as_by_torchvisions_model_of_that_size(small):
    _, make, _, side = small
    model, large = make().eval(), make(2 * side).eval()
    state = model.state_dict()
    if isinstance(model, zoo.VisionTransformer):
        state = zoo.vision_transformer.interpolate_embeddings(2 * side, model.patch_size, state)
    large.load_state_dict(state)
    tower, images = tower_of(model).eval(), torch.randn(2, 1, 2 * side, 2 * side)
    with torch.inference_mode():
        wanted = maps_of(large, images)
        torch.testing.assert_close(tower(images), wanted, atol=1e-4, rtol=1e-4)


def test_a_weights_file_of_another_size_fits_with_its_positions_interpolated(tmp_path):
    other, tower = vit(96).state_dict(), tower_of(vit(64))
    take_weights(tower, other, tmp_path / "w.pth")
    wanted = zoo.vision_transformer.interpolate_embeddings(64, 16, dict(other))["encoder.pos_embedding"]
    assert torch.equal(tower.state_dict()["body.encoder.pos_embedding"], wanted)


def test_a_side_that_does_not_divide_is_refused_with_the_next_ones_that_do(small):
    name, _, step, _ = small
    tower = build_image_tower(name, False)
    with pytest.raises(TowerError, match=rf"multiple of {step} pixels, not {3 * step - 1}.* {2 * step} or {3 * step}$"):
        tower(torch.zeros(1, 1, 3 * step - 1, 3 * step - 1))
    with pytest.raises(TowerError, match=rf"not {step - 1};.* to {step}$"):
        tower(torch.zeros(1, 1, step - 1, step - 1))


def test_stages_are_frozen_from_the_stem_on_and_gradients_reach_it_otherwise(small):
    name, _, _, side = small
    tower = build_image_tower(name, False)
    maps = tower(torch.randn(2, 1, side, side))
    (maps * torch.randn_like(maps)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in tower.parameters() if parameter.numel() > 1)
    tower.freeze(1)
    stem = ("class_token", "conv_proj", "pos_embedding", "stem")
    for key, parameter in tower.named_parameters():
        assert parameter.requires_grad is not any(part in key for part in stem), key
    tower.freeze(99)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.fixture
def trained(tmp_path, small, small_experiment):
    """Return a function (seed, settings of [image]) -> Experiment, trained for an epoch into the folder of its seed."""
    name, _, _, side = small

    def run(seed, **settings):
        experiment = small_experiment(tmp_path)
        image = experiment.image.model_copy(update={"tower": name, "size": side, **settings})
        experiment = experiment.model_copy(update={"seed": seed, "image": image})
        train(experiment, tmp_path / str(seed))
        return experiment

    return run


def test_it_trains_and_its_checkpoint_gives_the_runs_vectors_on_every_runtime_and_explains_them(tmp_path, trained):
    experiment = trained(1)
    run = load_run(tmp_path / "1")
    fresh = build_model(experiment, run.model.text_tower, ()).state_dict()
    stem = next(name for name in fresh if name.endswith((".conv_proj.weight", ".stem.0.0.weight")))
    assert (run.model.state_dict()[stem] - fresh[stem]).abs().max() > 1e-5
    small = ProjectionOptions(appearance_dim=20)
    folder = export(tmp_path / "1", tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    images = [draw(seed, 100)[0] for seed in (101, 102, 103)]
    inputs = torch.from_numpy(encoder._inputs(images))[:, None]
    with torch.inference_mode():
        for ours, theirs in zip(run.model.embed_images(inputs), encoder.model.embed_images(inputs), strict=True):
            assert torch.cosine_similarity(ours, theirs).min() > 0.999
    vectors = encoder.encode_images(images).embeddings
    for name in OPTIONAL:
        if not missing_packages(name):
            other = CommonSubspaceEncoder.load(folder, "cpu", 1, RuntimeChoice(name, "f32", tmp_path / "runtime"))
            assert (other.encode_images(images).embeddings * vectors).sum(1).min() > 0.999
    explained = explain(encoder, images[0], images[1])
    assert explained.a.contributions.shape == run.model.image_tower(inputs).shape[2:]
    assert explained.a.contributions.sum() + explained.a.normal == pytest.approx(explained.cosine, abs=0.02)


def test_runs_of_it_are_averaged_stacked_and_started_from(tmp_path, trained, small):
    for seed in (1, 2):
        trained(seed)
    mean = load_run(average_runs({"1": 0.5, "2": 0.5}, tmp_path, "mean"))
    parts = [load_run(tmp_path / str(seed)).model.state_dict() for seed in (1, 2)]
    key = next(name for name in parts[0] if name.endswith((".in_proj_weight", ".to_qkv.weight")))
    torch.testing.assert_close(mean.model.state_dict()[key], (parts[0][key] + parts[1][key]) / 2)
    both = load_run(stack_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")).model.image_tower.eval()
    images = torch.randn(2, 1, small[3], small[3])
    with torch.inference_mode():
        alone = [load_run(tmp_path / str(seed)).model.image_tower.pooled(images) for seed in (1, 2)]
        torch.testing.assert_close(both.pooled(images), torch.cat(alone, 1))
    trained(3, weights=tmp_path / "1", freeze=99, augment=0.0)
    started = load_run(tmp_path / "3").model.state_dict()
    assert torch.equal(started[key], parts[0][key])


@pytest.mark.parametrize("attention", ["crop", "both"])
def test_it_may_attend_to_a_region_and_pool_by_the_generalised_mean(tmp_path, trained, small, attention):
    trained(1, tower=f"gem3:{small[0]}", attention=attention)
    features = load_run(tmp_path / "1").model.image_features(torch.randn(2, 1, small[3], small[3]))
    assert torch.isfinite(features).all()
