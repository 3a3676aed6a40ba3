"""A complete, tiny implementation of the Encoder seam: words and mean brightness to vectors, in microseconds."""

import hashlib

import numpy as np

from encoders.base import FINDING_NAMES, Basis, ImageEncoding, ReportEncoding

DIM = 16


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def of_word(word):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=DIM)


class ToyEncoder:
    """Vectors without a model."""

    dim = DIM
    image_size = 32
    chest_threshold = 0.0

    def __init__(self, checkpoint=None, device="cpu", threads=1, name="toy"):
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.model_id = f"{name} {self.fingerprint[:12]}"
        # as in a checkpoint's card; the same as `score`, which is a straight line for images
        knots = {"cosine": [-1.0, 1.0], "probability": [0.0, 1.0]}
        self.card = {"calibration": {"scores": {"IMAGE/IMAGE": knots}}}

    def encode_images(self, images):
        vectors = np.stack([unit(of_word(f"brightness {image.mean():.1f}")) for image in images])
        findings = np.zeros((len(images), len(FINDING_NAMES)), np.float32)
        ones = np.ones(len(images), np.float32)
        return ImageEncoding(vectors, findings, ones, ones)

    def encode_reports(self, reports):
        vectors = np.stack([self.encode_text(f"{report.findings} {report.impression}") for report in reports])
        return ReportEncoding(vectors, np.full((len(reports), len(FINDING_NAMES)), np.nan, np.float32))

    def encode_text(self, text):
        return unit(np.sum([of_word(word) for word in text.lower().split()], axis=0))

    def fuse(self, images, report):
        parts = [unit(images.mean(axis=0))] if len(images) else []
        return unit(np.sum(parts + ([report] if report is not None else []), axis=0))

    def score(self, cosines, query, entry):
        power = {Basis.IMAGE: 1.0, Basis.JOINT: 2.0, Basis.REPORT: 3.0}[entry]
        return (((np.asarray(cosines) + 1) / 2) ** power).astype(np.float32)
