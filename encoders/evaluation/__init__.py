"""What `cxrfind evaluate` measures, through the public Encoder seam alone.

    manifest --pools--> the images of one source and one view, one of each study; never two sources in one ranking
             --systems, baselines--> vectors: checkpoints, baselines (some trained here), controls, the reports'
                 words
             --retrieval, cross_modal, classification, subgroups--> figures, each with its interval and chance
             --plots, sheets, page--> results.json and one HTML file that needs nothing else
"""

from encoders.evaluation.baselines import plan
from encoders.evaluation.evaluate import EvaluationOptions, evaluate
from encoders.evaluation.page import write_page

__all__ = ["EvaluationOptions", "evaluate", "plan", "write_page"]
