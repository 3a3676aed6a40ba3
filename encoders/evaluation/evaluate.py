"""One evaluation: encode once, then every figure of every system in every pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from encoders.base import Encoder, Float32
from encoders.evaluation import classification, retrieval, systems
from encoders.evaluation.baselines import LeftOut, Plan, trained_systems
from encoders.evaluation.cross_modal import cross_modal
from encoders.evaluation.pools import LEAST_IMAGES, Float, Pool, load_samples, pools, text_of
from encoders.evaluation.subgroups import subgroups
from encoders.evaluation.systems import System
from encoders.training.manifest import ManifestError, Sample

#: What a figure's name means, in the JSON and on the page.
LEGEND = {
    "map@k of protocol A": "AP divided by the hits in the top k; a query without one there is left out, in each run by "
    "itself, so that a system that finds nothing is not charged for it",
    "map0@k": "the same, and a query without a hit in the top k counts 0",
    "mapn@k, and map@k of protocol B and headings": "AP divided by min(k, R), R = relevant entries in the database",
    "acc@k": "share of queries with a hit in the top k; acc@1 is map0@1 and mapn@1, and map@1 is 1 by definition",
    "queries": "only those that an entry of another patient could answer; in a table the same ones for all figures but "
    "for map@k of protocol A",
    "ndcg@k": "gain 2^r - 1, r = shared labels, ideal list from the whole database",
    "image_to_report ndcg@10": "abnormal images; r = abnormal findings of both image and report; its own is one",
    "reference_minus_this": "difference of means and its 95 % interval, paired by query",
}


class Progress(Protocol):
    """Is told what is being done, how much of how much, and more about it."""

    def __call__(self, what: str, done: int, of: int, note: str = "", /) -> None: ...


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What an evaluation decides.

    Attributes
    ----------
    split : str or None
        Only these rows of the manifest; None: all.
    seeds : int
        How often chance and the control are drawn.
    limit : int
        Studies of each source, at most (the cost grows with its square); 0: all.
    baselines : bool
        False: only the checkpoints, chance and the control.
    trained : Plan or None
        The baselines that must be trained; None: without.
    """

    split: str | None = None
    seeds: int = 3
    limit: int = 2000
    baselines: bool = True
    trained: Plan | None = None


@dataclass(frozen=True, slots=True)
class PoolResult:
    """What the plots need of one pool beside its figures."""

    pool: Pool
    vectors: Float32                                                # of the first checkpoint, NaN rows without
    lead: Float                                                     # its NDCG@10 of each query, NaN where there is none


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures as JSON, and what the page draws from."""

    results: dict[str, Any]
    pools: tuple[PoolResult, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class _Systems:
    every: list[System]
    left_out: list[LeftOut]
    unreadable: int
    pools: list[Pool]


def _all_systems(
    samples: Sequence[Sample], encoders: Mapping[str, Sequence[Encoder]], options: EvaluationOptions, progress: Progress
) -> _Systems:
    models: list[System] = []
    faults: tuple[str, ...] = ()
    for name, of_it in encoders.items():
        model, faults = systems.checkpoint_system(name, of_it, samples, partial(progress, f"encode {name}"))
        models.append(model)
    readable = np.flatnonzero(np.isfinite(models[0].runs[0]).all(1))
    chosen = pools(samples, readable.tolist())
    if not chosen:
        raise ManifestError("no source has enough readable images of one view to judge; at least 20 studies are needed")
    left_out: list[LeftOut] = []
    rest = [systems.shuffled_system(models[0], [pool.rows.tolist() for pool in chosen], options.seeds)]
    rest += [systems.exchanged_system(models[0], samples), systems.sickest_system(models[0])]
    if options.baselines:
        rest.append(systems.classifier_system(models[0]))
        rest += systems.pixel_systems(samples, partial(progress, "encode baselines"))
    if options.trained is not None:
        trained, left_out = trained_systems(options.trained, samples, readable, progress)
        for system in trained:
            taken = [each.name for each in (*models, *rest)]
            rest.append(replace(system, name=systems.unique_name(system.name, taken)))
    if options.baselines:
        words = systems.tfidf_system([text_of(sample) for sample in samples])
        rest += [words] if words else []
    every = [*models, *rest, systems.random_system(len(samples), options.seeds)]
    return _Systems(every, left_out, len(faults), chosen)


def _retrieval(pool: Pool, every: Sequence[System]) -> tuple[dict[str, Any], dict[str, dict[str, Float]]]:
    """Return a pool's retrieval tables, and protocol B's values of each system by query."""
    excluded = pool.same_patient
    graded: dict[str, dict[str, Float]] = {}
    paper: dict[str, dict[str, Float]] = {}
    headings: dict[str, dict[str, Float]] = {}
    curves, findings, variety = {}, {}, {}
    for system in every:
        ranking = retrieval.rank(system, pool)
        if len(ranking.rows) < len(pool.rows) / 2:
            continue                                                # TF-IDF where few images have a report
        graded[system.name] = retrieval.graded(ranking, pool.abnormal, excluded)
        paper[system.name] = retrieval.protocol_a(ranking, pool.labels, excluded)
        if pool.headings.shape[1]:
            headings[system.name] = retrieval.graded(ranking, pool.headings, excluded)
        variety[system.name] = retrieval.variety(ranking, pool.abnormal, excluded)
        curves[system.name] = retrieval.by_k(ranking, pool.abnormal, excluded)
        findings[system.name] = retrieval.by_finding(ranking, pool.labels, excluded)
    reference = every[0].name
    tables = {
        "B": retrieval.summarised(graded, reference),
        "A": retrieval.summarised(paper, reference),
        "headings": retrieval.summarised(headings, reference) if headings else {},
        "by_k": {"k": list(retrieval.KS), **curves},
        "by_finding": findings,
        "variety": variety,
    }
    return tables, graded


def _with_reports(
    pool: Pool, every: Sequence[System], encoders: Mapping[str, Sequence[Encoder]]
) -> dict[str, dict[str, Any]]:
    """Return the tables of studies with a report among themselves, by the image fused with it (JOINT) and by it alone.

    Their chance is that of the same rows. Empty where few images have a report.
    """
    models = [system for system in every if system.name in encoders and system.reports]
    having = np.array([bool(text) for text in pool.texts])
    if not models or having.sum() < LEAST_IMAGES:
        return {}
    rows = np.asarray(np.isfinite(models[0].reports[0]).all(1))
    chance = [systems.among(system, rows) for system in every if system.name == systems.RANDOM]
    words = [system for system in every if system.name == systems.TFIDF]
    found = {}
    for name, compared in (
        ("JOINT", [systems.fused_system(model, encoders[model.name]) for model in models]),
        ("REPORT", [System(model.name, model.note, model.reports) for model in models]),
    ):
        tables, _ = _retrieval(pool, [*compared, *words, *chance])
        found[name] = {kind: tables[kind] for kind in ("B", "headings")}
    return found


def _judge(
    pool: Pool, every: Sequence[System], encoders: Mapping[str, Sequence[Encoder]]
) -> tuple[dict[str, Any], PoolResult] | None:
    known = np.nan_to_num(pool.abnormal)
    if not retrieval.possible(known @ known.T, pool.same_patient).any():
        return None                                                 # nobody to look for, for instance normal films only
    model = every[0]
    tables, graded = _retrieval(pool, every)
    lead = graded[model.name][retrieval.LEAD].mean(0)
    vectors = model.runs[0][pool.rows]
    found = {system.name: classification.finding_table(system, pool) for system in every if system.findings}

    def calibration(system: System) -> dict[str, Any]:
        said = [classification.finding_calibration(findings[pool.rows], pool) for findings in system.findings]
        scored = [
            classification.score_calibration(encoder, run[pool.rows], pool)
            for encoder, run in zip(encoders[system.name], system.runs, strict=True)
        ]
        return {"findings": classification.mean_of_runs(said), "score": classification.mean_of_runs(scored)}

    result = {
        "source": pool.source,
        "view": pool.view,
        "images": len(pool.rows),
        "coded": int((~np.isnan(pool.labels).all(1)).sum()),
        "abnormal": int(known.any(1).sum()),
        "retrieval": tables,
        "with_reports": _with_reports(pool, every, encoders),
        "cross_modal": cross_modal(every, pool),
        "findings": found,
        "mean_auc": classification.mean_auc(every, pool),
        "calibration": {system.name: calibration(system) for system in every if system.name in encoders},
        "subgroups": subgroups(model, pool, lead, graded[systems.RANDOM][retrieval.LEAD].mean(0)),
        "labeler": classification.labeler_table(pool),
    }
    return result, PoolResult(pool, vectors, lead)


def _nothing_to_find(chosen: Sequence[Pool]) -> str:
    if not any(np.nansum(pool.abnormal) for pool in chosen):
        return "no image is coded with an abnormal finding; fill the column chexpert"
    return (
        "no two images of one source and view, of different patients, share an abnormal finding, so that there is "
        "nothing to find; name more studies, and fill the columns chexpert and patient_id"
    )


def evaluate(
    manifest: Path,
    encoders: Mapping[str, Sequence[Encoder]],
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> Evaluation:
    """Return every figure of the manifest's images.

    Parameters
    ----------
    encoders : mapping of name to Encoders
        Several Encoders are the seeds of one system. The first system is the reference: subgroups, calibration plots
        and contact sheets are its own, and every other one is compared with it, query by query.

    Raises
    ------
    ManifestError
        If the manifest has nothing to judge.
    """
    tell = progress or (lambda *_: None)
    samples = load_samples(manifest, options.split, options.limit, seed=0)
    chosen = _all_systems(samples, encoders, options, tell)
    every = chosen.every
    judged = []
    for done, pool in enumerate(chosen.pools):
        tell("judge", done, len(chosen.pools))
        judged.append(_judge(pool, every, encoders))
    tell("judge", len(chosen.pools), len(chosen.pools))
    kept = [each for each in judged if each is not None]
    if not kept:
        raise ManifestError(f"{manifest}: {_nothing_to_find(chosen.pools)}")
    results = {
        "manifest": manifest.name,
        "split": options.split,
        "seeds": options.seeds,
        "limit": options.limit,
        "images": len(samples),
        "unreadable": chosen.unreadable,
        "reference": every[0].name,
        "chance": systems.RANDOM,
        "legend": LEGEND,
        "checkpoints": list(encoders),
        "systems": [{"name": system.name, "note": system.note} for system in every],
        "left_out": [asdict(each) for each in chosen.left_out],
        "pools": [result for result, _ in kept],
    }
    return Evaluation(results, tuple(drawn for _, drawn in kept))
