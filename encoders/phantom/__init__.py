"""Synthetic chest X-ray studies, drawn from geometry: for the demo, the tests and the load generator.

    seed --> study.simulate --> SyntheticStudy --> writing.write_study --> DX/CR images and an SR report
             anatomy: who    \\
             disease: what    >-- film.expose: attenuation of air, tissue, bone, metal -> scatter -> tone -> noise
             report: in words/

The same seed gives the same bytes. Every picture bears the banner "SYNTHETIC - NOT A PATIENT".
"""

from encoders.phantom.codecs import SYNTAXES, UnknownTransferSyntax
from encoders.phantom.dicom import Format, study_datasets
from encoders.phantom.disease import Abnormality, Kind
from encoders.phantom.study import SyntheticStudy, draw, simulate
from encoders.phantom.writing import UnusableFormat, choose_format, write_studies, write_study

__all__ = ["SYNTAXES", "Abnormality", "Format", "Kind", "SyntheticStudy", "UnknownTransferSyntax", "UnusableFormat",
           "choose_format", "draw", "simulate", "study_datasets", "write_studies", "write_study"]
