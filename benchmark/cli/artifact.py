"""`reliquant artifact inputs`: pixels and prompts for features that are made elsewhere."""

from __future__ import annotations

import json
import shlex

from benchmark.cli.requests import ArtifactInputsRequest
from benchmark.data.pixels import PixelCache
from benchmark.engine.artifact_inputs import write_inputs
from benchmark.engine.include import include_files
from benchmark.engine.plan import Settings, make_plan
from benchmark.engine.requested import pixel_budget
from benchmark.models.references import refuse_quantized
from benchmark.spec import FP32
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress


def inputs(request: ArtifactInputsRequest) -> None:
    """Write them, and say what to do next."""
    include_files(request.include)
    suite = narrow(
        load_suite(request.suite, request.data, request.catalogues),
        models=request.models,
        quantizations=[FP32.name],
        tasks=request.tasks,
        limit=request.limit,
    )
    with open_progress(request.quiet) as progress:
        plan = make_plan(suite, Settings(allow_outside=request.allow_outside))
        refuse_quantized((c.model for c in plan.configurations), "artifact inputs")
        cache = PixelCache(request.home / "cache" / "pixels", pixel_budget(request), request.skip_broken)
        written = write_inputs(plan, request.to, cache, progress)
    if request.json:
        about = {"images": written.images, "texts": written.texts, "bytes": written.bytes, "folder": str(request.to)}
        print(json.dumps(about), file=out())
        return
    print(
        f"{request.to}: {written.images:,} images ({written.bytes / 1e6:,.1f} MB of pixels) and {written.texts:,} "
        "texts, each with its id; inputs.json says how to normalise"
    )
    command = ["reliquant", "run", request.suite, *(f"--task={task}" for task in request.tasks)]
    command += [] if request.limit is None else ["--limit", str(request.limit)]
    print(f"Then: {shlex.join([*command, '--artifact', 'NAME=features.npz'])}")
