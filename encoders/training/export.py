"""From a training run to a checkpoint: projection, calibration, gate, weights and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter
from torch import nn

from encoders.base import ABNORMAL_COLUMNS, ABNORMAL_FINDINGS, FINDING_NAMES, Basis, Float32
from encoders.checkpoint import FORMATS, WEIGHTS_FILE, write_card
from encoders.preprocess import Preprocessing, sheet, standardise
from encoders.tensors import Precision, write_tensors
from encoders.towers.gate import ChestGate
from encoders.towers.model import MultimodalModel
from encoders.towers.projection import Projection, sigmoid, text_slots, unit_rows
from encoders.training.arrays import Arrays, Progress, build_arrays
from encoders.training.build import Trained, load_run
from encoders.training.calibration import platt, score_knots
from encoders.training.experiment import checked_toml
from encoders.training.features import with_features
from encoders.training.gate import fit_gate
from encoders.training.metrics import cosine_ranking, same
from encoders.training.negatives import draw_negatives
from encoders.training.project import (
    ProjectionOptions,
    fit_projection,
    nothing_paired,
    project_images,
    project_texts,
    tells_views,
    with_pairs,
)
from encoders.training.selection import select
from encoders.training.trainer import CACHE_FOLDER
from encoders.training.validation import finding_logits, frontal_rows, run

#: Training images that details are cut out of, to teach the gate that they are no chests.
CHESTS = 1000


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export decides beyond the run.

    Attributes
    ----------
    report_weight : float
        Weight of the report in a fused (JOINT) vector.
    keep_chest : float
        Share of the validation's true chest images that the gate's threshold must keep.
    most_strict : float
        The threshold is never higher than this.
    negatives : int
        Drawn pictures to teach the gate with.
    per_source : int
        Training images of each source that projection and gate are fitted on, at most.
    precision : str
        Of the matrices in the weights file: ``float16``, or ``int8`` for the large ones: nearly half the size.
    card : mapping
        More for the card: data, licences, metrics, commands.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = "cxrfind-mmdl"
    projection: ProjectionOptions = field(default_factory=ProjectionOptions)
    report_weight: float = 2 / 3
    keep_chest: float = 0.995
    most_strict: float = 0.8
    negatives: int = 1500
    per_source: int = 2500
    precision: Precision = "float16"
    seed: int = 0
    card: Mapping[str, Any] = field(default_factory=dict)


def read_options(path: Path) -> ExportOptions:
    """Return the options of a TOML file: the attributes of ExportOptions, ``[projection]`` and ``[card]``.

    Raises
    ------
    ExperimentError
        One line per fault: file, key, what is expected.
    """
    return checked_toml(path, TypeAdapter(ExportOptions).validate_python)


def pooled_features(model: MultimodalModel, images: Float32, constants: Preprocessing) -> Float32:
    """Return pooled image features (n, channels) of pictures float32 (n, size, size) in 0..1."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), 64):
            sheets = np.stack([sheet(image, constants.sizes) for image in images[start : start + 64]])
            batch = torch.from_numpy(standardise(sheets, constants)).unsqueeze(1)
            parts.append(model.image_features(batch.to(memory_format=torch.channels_last)).float().numpy())
    return np.concatenate(parts)


def balanced_rows(arrays: Arrays, per_source: int, seed: int) -> np.ndarray:
    """Return rows with at most so many images of each source."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(arrays.source == source))[:per_source]
        for source in np.unique(arrays.source)
    ]
    return np.asarray(np.sort(np.concatenate(chosen)))


def subset(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """Return the arrays of some image rows; the texts stay."""
    return replace(
        arrays,
        samples=tuple(arrays.samples[row] for row in rows),
        images=arrays.images[rows],
        labels=arrays.labels[rows],
        auxiliary={name: values[rows] for name, values in arrays.auxiliary.items()},
        frontal=arrays.frontal[rows],
        source=arrays.source[rows],
        text=arrays.text[rows],
    )


def score_maps(
    image: Float32,
    report: Float32,
    joint: Float32,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    prompts: Float32,
    prompt_labels: np.ndarray,
) -> dict[str, dict[str, list[float]]]:
    """Return knots for every (query basis, entry basis), fitted on pairs of different studies.

    Parameters
    ----------
    image, report, joint : float32 (n, dim)
        Vectors of the same n studies.
    labels : (n, 12) abnormal findings
    prompts, prompt_labels : vectors of findings' names and the one finding each of them means
    """
    vectors = {"IMAGE": image, "REPORT": report, "JOINT": joint}
    known = np.nan_to_num(labels)
    shared = known @ known.T > 0
    apart = ~same(groups)
    maps = {
        f"{q}/{e}": score_knots(cosine_ranking(vectors[q], vectors[e])[apart], shared[apart])
        for q in vectors
        for e in vectors
    }
    meant = prompt_labels @ known.T > 0
    for name, rows in vectors.items():
        knots = score_knots(cosine_ranking(prompts, rows).ravel(), meant.ravel())
        maps[f"TEXT/{name}"], maps[f"{name}/TEXT"] = knots, knots
    maps["TEXT/TEXT"] = maps["REPORT/REPORT"]
    return maps


def _tensors(trained: Trained, projection: Projection, gate: ChestGate) -> dict[str, torch.Tensor]:
    model, tower = trained.model, trained.model.text_tower
    state = model.state_dict()
    kept = {f"model.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    kept |= {f"text.{name}": value for name, value in tower.tensors().items()}
    kept["projection.normal"] = torch.from_numpy(projection.normal)
    kept |= {f"projection.bias.{m}": torch.from_numpy(value) for m, value in projection.bias.items()}
    kept |= {f"projection.matrix.{m}": torch.from_numpy(value) for m, value in projection.matrix.items()}
    kept |= {
        f"gate.{name}": torch.from_numpy(np.ascontiguousarray(getattr(gate, name)))
        for name in ("mean", "scale", "axes", "weight")
    }
    return kept


def _architecture(trained: Trained) -> dict[str, Any]:
    experiment, tower = trained.experiment, trained.model.text_tower
    outputs = {name: layer.out_features for name, layer in trained.model.subspace.coupling.items()}
    return {
        "image": {"tower": experiment.image.tower, "attention": experiment.image.attention},
        "text": {"name": tower.name, **tower.card()},
        "subspace": {
            "channels": experiment.subspace.channels,
            "hidden": experiment.subspace.hidden,
            "dim": experiment.subspace.dim,
            "outputs": outputs,
            "normalised_logits": experiment.subspace.normalised_logits,
            "direct": experiment.subspace.direct,
        },
    }


def _first_pairs(arrays: Arrays, prefix: str) -> np.ndarray:
    rows = frontal_rows(arrays, prefix)
    paired: np.ndarray = rows[(arrays.text[rows] >= 0) & ~np.isnan(arrays.labels[rows]).all(1)]
    return paired


def export(
    run_folder: Path,
    output: Path,
    options: ExportOptions,
    manifest: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the checkpoint of a run; return its folder.

    Projection and gate are fitted on training images, calibrations and threshold on validation images. A model that
    does not tell frontal from lateral images says so in its card (``views``), and .5 of the view of every image.
    Where no image has a report of its own, reports of the same findings stand in (``paired_by``: findings, not study):
    they then lie among the images by their findings alone, with the findings' weight of texts that are asked for.

    Parameters
    ----------
    manifest : Path or None
        The data, if it no longer lies where the run found it.

    Raises
    ------
    NothingToFitOn
        If the data lack what the projection or the scores are fitted on.
    """
    trained = load_run(run_folder)
    model, constants, experiment = trained.model, trained.constants, trained.experiment
    if manifest is not None:
        data = experiment.data.model_copy(update={"manifest": manifest})
        experiment = experiment.model_copy(update={"data": data})
    cache = run_folder.parent / CACHE_FOLDER
    held_out, whole = (
        build_arrays(select(experiment, split), trained.vocabularies, constants.sizes, cache)
        for split in ("val", "train")
    )
    paired = options.projection.paired
    (held_out, own), (whole, owned) = (with_pairs(arrays, paired, options.seed) for arrays in (held_out, whole))
    pairs = _first_pairs(held_out, paired)
    if not len(pairs):
        raise nothing_paired(paired, "val")
    chests = np.array(whole.images[:: max(1, len(whole.images) // CHESTS), : constants.size, : constants.size])
    held_out, whole = (with_features(model, arrays, constants, cache, progress) for arrays in (held_out, whole))
    arrays = subset(whole, balanced_rows(whole, options.per_source, options.seed))
    known = run(model, arrays, constants)
    views = tells_views(known.logits["view"], arrays.frontal)
    if not views:
        for parameter in model.subspace.coupling["view"].parameters():
            nn.init.zeros_(parameter)                               # it says .5 of every image
    seen = run(model, held_out, constants)
    chosen = options.projection
    if not owned:                                                   # a report has no image of its own to find
        chosen = replace(chosen, report_findings_weight=chosen.text_findings_weight)
    projection = fit_projection(arrays, known, chosen)
    slope, offset = platt(finding_logits(seen), held_out.labels)
    gate = fit_gate(
        known.features,
        pooled_features(model, draw_negatives(options.negatives, constants.size, chests, options.seed), constants),
    )
    threshold = min(options.most_strict, float(np.quantile(gate(seen.features), 1 - options.keep_chest)))
    probabilities = sigmoid(np.float32(slope) * finding_logits(seen) + np.float32(offset))
    image = project_images(projection, seen, probabilities)[pairs]
    report = project_texts(projection, seen)[held_out.text[pairs]]
    share = options.report_weight
    joint = unit_rows((1 - share) * image + share * projection.to_be_fused(report))     # as the encoder's `fuse` does
    prompts = _embed_texts(trained, projection, [name.lower() for name in ABNORMAL_FINDINGS])
    maps = score_maps(
        image,
        report,
        joint,
        held_out.labels[pairs][:, ABNORMAL_COLUMNS],
        [held_out.samples[row].patient_id for row in pairs],
        prompts=prompts,
        prompt_labels=np.eye(len(ABNORMAL_FINDINGS)),
    )
    output.mkdir(parents=True, exist_ok=True)
    write_tensors(_tensors(trained, projection, gate), output / WEIGHTS_FILE, options.precision)
    write_card(
        output,
        {
            "format": FORMATS[options.precision],
            "name": options.name,
            "architecture": _architecture(trained),
            "preprocessing": asdict(constants),
            "finding_names": list(FINDING_NAMES),
            "vocabularies": {v.name: list(v.labels) for v in trained.vocabularies},
            "views": views,
            "paired_by": "study" if own and owned else "findings",
            "projection": {"root": projection.root, "findings_weight": dict(projection.findings_weight)},
            "dim": projection.dim,
            "calibration": {
                "findings": {"slope": slope.round(5).tolist(), "offset": offset.round(5).tolist()},
                "scores": maps,
            },
            "fusion": {"report_weight": options.report_weight},
            "gate": {"threshold": round(threshold, 5), "offset": gate.offset},
            **dict(options.card),
        },
    )
    return output


def _embed_texts(trained: Trained, projection: Projection, texts: Sequence[str]) -> Float32:
    with torch.inference_mode():
        features, embedding = trained.model.embed_texts(texts)
        findings = sigmoid(trained.model.subspace.predict(embedding, "findings").float().numpy())
    return projection(text_slots(features.float().numpy(), embedding.float().numpy()), findings, Basis.TEXT)


__all__ = ["ExportOptions", "export", "read_options"]
