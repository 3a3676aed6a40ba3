"""The figures that a training run watches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from encoders.base import ABNORMAL_COLUMNS, Float32
from encoders.preprocess import Preprocessing
from encoders.towers.model import DIRECT_SHARE, MultimodalModel
from encoders.towers.subspace import IMAGE
from encoders.training import metrics
from encoders.training.arrays import Arrays, taken_as_frontal
from encoders.training.augment import plain, standardised

MIN_POSITIVES = 2
#: Sources with fewer images, or fewer abnormal findings in them, are too noisy to watch.
MIN_IMAGES, MIN_FINDINGS = 100, 20
#: What a training is told that nothing watches.
NOT_WATCHED = (
    f"no source has {MIN_IMAGES} frontal val images with {MIN_FINDINGS} findings: the last epoch is kept, none stops it"
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model says about the rows of `Arrays`."""

    features: Float32
    embeddings: Float32
    logits: dict[str, Float32]
    direct: dict[str, Float32]
    normal: Float32
    text_features: Float32
    text_embeddings: Float32
    text_logits: dict[str, Float32]


def run(model: MultimodalModel, arrays: Arrays, constants: Preprocessing, batch: int = 64) -> Outputs:
    """Return the model's outputs for all images and texts, in evaluation mode and without gradient."""
    model.eval()
    device = next(model.parameters()).device
    features, embeddings = [], []
    with torch.inference_mode():
        for start in range(0, len(arrays.samples), batch):
            raw = torch.from_numpy(np.array(arrays.images[start : start + batch])).to(device)
            if raw.ndim == 2:                                       # features of a frozen tower
                pooled, embedding = raw, model.subspace(raw, IMAGE)
            else:
                images = standardised(plain(raw, constants.sizes), constants).to(memory_format=torch.channels_last)
                pooled, embedding = model.embed_images(images)
            features.append(pooled.float().cpu())
            embeddings.append(embedding.float().cpu())
        image = torch.cat(embeddings) if embeddings else torch.zeros(0, model.subspace.third.out_features)
        texts = [model.embed_texts(arrays.texts[i : i + 512]) for i in range(0, len(arrays.texts), 512)]
        words = torch.cat([features.float().cpu() for features, _ in texts] or [torch.zeros(0, model.text_tower.width)])
        text = torch.cat([embedding.float().cpu() for _, embedding in texts] or [image[:0]])
        space = model.subspace
        names = list(space.coupling)
        logits = {name: space.predict(image.to(device), name).float().cpu().numpy() for name in names}
        text_logits = {name: space.predict(text.to(device), name).float().cpu().numpy() for name in names}
        pooled = torch.cat(features) if features else torch.zeros(0, len(model.normal))
        direct = {name: layer(pooled.to(device)).float().cpu().numpy() for name, layer in model.direct.items()}
        normal = model.normal.float().cpu().numpy()
    return Outputs(pooled.numpy(), image.numpy(), logits, direct, normal, words.numpy(), text.numpy(), text_logits)


def finding_logits(outputs: Outputs) -> Float32:
    """Return the images' findings by the coupling matrix, plus by the direct predictions where there are any."""
    return outputs.logits["findings"] + DIRECT_SHARE * outputs.direct.get("findings", np.float32(0))


def frontal_rows(arrays: Arrays, prefix: str) -> np.ndarray:
    """Return the first frontal image of each study of a source."""
    frontal = taken_as_frontal(arrays)
    seen: dict[str, int] = {}
    for row, sample in enumerate(arrays.samples):
        if sample.dataset.startswith(prefix) and frontal[row]:
            seen.setdefault(sample.study_id, row)
    return np.array(sorted(seen.values()), dtype=np.intp)


def image_retrieval(embeddings: Float32, labels: np.ndarray, groups: list[str]) -> metrics.ProtocolB:
    """Return protocol B of images among themselves; entries of the same group are no answers."""
    return metrics.protocol_b(metrics.cosine_ranking(embeddings, embeddings), labels, metrics.same(groups))


def mean_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the AUC averaged over the findings that have enough positives."""
    usable = [c for c in range(labels.shape[1]) if np.nansum(labels[:, c]) >= MIN_POSITIVES]
    values = [metrics.auc(scores[:, c].astype(float), labels[:, c].astype(float)) for c in usable]
    return float(np.nanmean(values)) if values else float("nan")


def image_to_report(embeddings: Float32, text_embeddings: Float32, text: np.ndarray) -> dict[str, float]:
    """Return cross-modal figures of images whose report is a row of `text_embeddings`; each modality centred."""
    used = sorted(set(text.tolist()))
    entries = text_embeddings[used]

    def centred(rows: Float32) -> Float32:
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return np.asarray(unit - unit.mean(0), np.float32)

    return metrics.cross_modal(metrics.cosine_ranking(centred(embeddings), centred(entries)), text.tolist(), used)


def watched(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the frontal rows of each source that has enough to judge by."""
    rows = {source: frontal_rows(arrays, source) for source in sorted({s.dataset for s in arrays.samples})}
    return {
        source: of
        for source, of in rows.items()
        if len(of) >= MIN_IMAGES and np.nansum(arrays.labels[of][:, ABNORMAL_COLUMNS]) >= MIN_FINDINGS
    }


def figures(arrays: Arrays, outputs: Outputs, headings: str = "mesh") -> dict[str, float]:
    """Return the validation figures of each source that is there: retrieval, AUC, image to report."""
    result: dict[str, float] = {}
    for source, rows in watched(arrays).items():
        labels = arrays.labels[rows]
        groups = [arrays.samples[row].patient_id for row in rows]
        b = image_retrieval(outputs.embeddings[rows], labels[:, ABNORMAL_COLUMNS], groups)
        result[f"{source}.ndcg"] = b.means()["ndcg@10"]
        result[f"{source}.auc"] = mean_auc(outputs.logits["findings"][rows][:, 1:], labels[:, 1:])
        if outputs.direct:
            both = finding_logits(outputs)[rows]
            result[f"{source}.auc_both"] = mean_auc(both[:, 1:], labels[:, 1:])
        if outputs.normal.any():
            seen = np.sqrt(np.maximum(outputs.features[rows], 0) + 1e-4) - outputs.normal
            d = image_retrieval(seen, labels[:, ABNORMAL_COLUMNS], groups)
            result[f"{source}.ndcg_descriptor"] = d.means()["ndcg@10"]
        for name, values in arrays.auxiliary.items():
            known = rows[~np.isnan(values[rows]).all(1)] if values.shape[1] else rows[:0]
            if len(known) >= 20 and name == headings:
                groups = [arrays.samples[row].patient_id for row in known]
                h = image_retrieval(outputs.embeddings[known], values[known], groups)
                result[f"{source}.{name}"] = h.means()["ndcg@10"]
        paired = rows[arrays.text[rows] >= 0]
        if len(paired) >= 20:
            found = image_to_report(outputs.embeddings[paired], outputs.text_embeddings, arrays.text[paired])
            result[f"{source}.r@10"] = found["r@10"]
    return result


def summary(values: dict[str, float]) -> float:
    """Return the one number that early stopping watches: the sum of all figures (each 0..1)."""
    return float(np.nansum(list(values.values())))
