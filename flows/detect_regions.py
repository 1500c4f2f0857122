"""Flow `detect-regions`: from a bucket of images to a manifest."""

from prefect import flow

from flows.prefect_engine import UNDER_PREFECT
from flows.steps.detect import detect
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.results import DetectionSummary


@flow(name="detect-regions", flow_run_name="detect {config.source}")
def detect_regions(config: DetectRegionsConfig) -> DetectionSummary:
    """Find regions that want refining and write them as a manifest; the same folder resumes.

    Raises:
        JobError: it could not go on; the message says what to do.
        Unacceptable: no image could be read.
    """
    return detect(config, UNDER_PREFECT)
