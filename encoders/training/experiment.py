"""One TOML file names an experiment; every key is checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from encoders.base import EncodersError
from encoders.preprocess import Preprocessing, tower_sizes

T = TypeVar("T")


class ExperimentError(EncodersError):
    """An experiment file cannot be used; the message names the file, the key and the cure."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuxiliaryLabels(_Section):
    """A vocabulary of source labels that is predicted beside the 14 findings, where the source has it."""

    name: str = Field(description="name of the coupling matrix")
    datasets: tuple[str, ...] = Field(description="prefixes of the data sets that carry these labels")
    min_count: int = Field(10, ge=1, description="rarer labels are left out")
    ignore: tuple[str, ...] = Field((), description="labels that are not predicted")
    uncoded: tuple[str, ...] = Field((), description="labels that say that nothing was coded")


class DataSection(_Section):
    """What is trained on."""

    manifest: Path = Field(description="CSV manifest; relative to the working directory")
    datasets: tuple[str, ...] = Field((), description="prefixes of the data sets to use; empty: all")
    views: tuple[str, ...] = Field(("frontal", "lateral", "unknown"), description="views to use")
    weights: dict[str, float] = Field({}, description="prefix of a data set = how often an epoch shows each image")
    abnormal_weight: float = Field(1.0, gt=0, description="factor on that for studies with an abnormal finding")
    auxiliary: tuple[AuxiliaryLabels, ...] = ()
    cache_size: int = Field(256, ge=32, description="side in pixels of the decoded images kept on disk")
    paired_fraction: float = Field(1.0, ge=0, le=1, description="share of the studies whose report is used")
    lateral_weight: float = Field(1.0, ge=0, description="factor on how often lateral images are shown")
    phantoms: int = Field(0, ge=0, description="simulated studies to add")
    limit: int = Field(0, ge=0, description="use only so many training images; 0: all")
    exchanged: bool | Literal["source"] = Field(
        False, description="a control: each image has the labels and report of another one, or of one of its source"
    )


class ImageSection(_Section):
    """The image branch."""

    tower: str = Field("efficientnet-lite0", description="efficientnet-lite0, torchvision:<name> or gem3:<tower>")
    pretrained: bool = Field(True, description="start from ImageNet tensors")
    weights: Path | None = Field(None, description="to start from: a state-dict (torchvision's too), run, checkpoint")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth: rate of the last block")
    size: int = Field(224, ge=32, description="side of the input in pixels")
    freeze: int = Field(0, ge=0, description="first stages that stay as they are; 99: all")
    attention: Literal["none", "crop", "both"] = Field("none", description="deep descriptors")
    augment: float = Field(1.0, ge=0, description="strength of rotation, scale, shift and contrast; 0: none")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        sizes = tower_sizes(self.tower, self.size)
        if sizes[0] != self.size:
            raise ValueError(f"size is {self.size} and the largest in tower is {sizes[0]}; make them equal")
        if len(sizes) > 1 and self.attention != "none":
            raise ValueError('towers of several sizes cannot share what one attends to; set attention = "none"')
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """Return what turns an image into the towers' input."""
        return Preprocessing(size=self.size, others=tower_sizes(self.tower, self.size)[1:])


class TextSection(_Section):
    """The text branch."""

    tower: str = Field("tfidf-svd", description="tfidf-svd, doc2vec or transformer")
    folder: str = Field("", description="local folder of a transformers model")
    width: int = Field(300, ge=8, description="features of a text")
    extra_batch: int = Field(256, ge=0, description="reports encoded at each step beside those of the images")
    prompts: bool = Field(True, description="train on the names of findings and headings as texts, too")
    hard_negatives: bool = Field(False, description="reports beside themselves contradicted, and with sides swapped")


class SubspaceSection(_Section):
    """The common subspace."""

    hidden: int = Field(1024, ge=8)
    dim: int = Field(512, ge=8)
    channels: int = Field(0, ge=0, description="leading channels of the image features that it reads; 0: all")
    dropout: float = Field(0.0, ge=0, lt=1)
    normalised_logits: bool = False
    direct: bool = Field(False, description="linear predictions from the pooled image features, too")


class LossSection(_Section):
    """Weights of the losses; 0 leaves one out. The paper: findings = 1 and nothing else."""

    form: Literal["bce", "sdml"] = Field("bce", description="of the findings loss")
    findings: float = Field(1.0, ge=0)
    reports: float = Field(1.0, ge=0, description="factor on the reports' share of it; 0: the image branch alone")
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    auxiliary: float = Field(0.0, ge=0)
    view: float = Field(0.0, ge=0, description="frontal or lateral")
    triplet: float = Field(0.0, ge=0, description="ranking loss on the image features")
    margin: float = Field(0.2, gt=0)
    contrastive: float = Field(0.0, ge=0, description="Jaccard-weighted, image to image within a source")
    crossmodal: float = Field(0.0, ge=0, description="image to its own report (InfoNCE, both directions)")
    graded_crossmodal: float = Field(0.0, ge=0, description="Jaccard-weighted, image to all reports")
    direct: float = Field(0.0, ge=0, description="of the direct predictions, findings and auxiliary")
    descriptor: float = Field(0.0, ge=0, description="Jaccard-weighted contrast of pooled features around the normal")
    smooth_ap: float = Field(0.0, ge=0)
    temperature: float = Field(0.1, gt=0)


class TrainSection(_Section):
    """How it is trained."""

    initial: str = Field("", description="run to go on from: a path, or the name of a run beside this one")
    epochs: int = Field(10, ge=1)
    stop_after: int = Field(0, ge=0, description="end after so many epochs although the schedule is longer; 0: no")
    pairs_first_epochs: int = Field(0, ge=0, description="partial pairing: that many epochs on pairs alone")
    batch: int = Field(64, ge=2)
    accumulate: int = Field(1, ge=1, description="batches to one optimiser step; fewer in an epoch's last one")
    learning_rate: float = Field(3e-4, gt=0, description="of the subspace and text module")
    tower_rate: float = Field(3e-4, ge=0, description="of the image tower")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.05, ge=0, le=1, description="share of all steps")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: none")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better validation; 0: never")
    keep: Literal["best", "last"] = Field("best", description="which epoch is the result: best on validation, or last")
    device: str = "cpu"
    threads: int = Field(0, ge=0, description="torch threads; 0: as torch likes")
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    workers: int = Field(0, ge=0, description="data-loader processes")


class Experiment(_Section):
    """One experiment."""

    name: str
    seed: int = 0
    data: DataSection
    image: ImageSection = ImageSection()
    text: TextSection = TextSection()
    subspace: SubspaceSection = SubspaceSection()
    loss: LossSection = LossSection()
    train: TrainSection = TrainSection()


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            result[key] = _laid_over(below[key], above[key])
    return result


def read_toml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a file's keys laid over those of the file that its key `base` names, beside it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read ({error.strerror}); name another file with --config") from error
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: not valid TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    below = path.parent / str(base)
    if below in (path, *above):
        raise ExperimentError(f"{path}, key base: {base} goes back to this file; name one that stands by itself")
    return _laid_over(read_toml(below, (path, *above)), values)


def checked_toml(path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    """Return what `build`, a pydantic model or adapter, makes of a TOML file and its bases.

    Raises
    ------
    ExperimentError
        One line per fault: file, key, what is expected.
    """
    try:
        return build(read_toml(path))
    except ValidationError as error:
        lines = [f"{path}, key {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ExperimentError("\n".join(lines)) from error


def load_experiment(path: Path, above: Mapping[str, Any] | None = None) -> Experiment:
    """Return the experiment of a TOML file, which may change a few keys of another: ``base = "other.toml"``.

    Parameters
    ----------
    above : mapping or None
        Keys that are laid over the file's.

    Raises
    ------
    ExperimentError
        One line per fault: file, key, what is expected.
    """
    return checked_toml(path, lambda values: Experiment.model_validate(_laid_over(values, dict(above or {}))))
