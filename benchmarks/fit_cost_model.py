"""Fit deploykit's cost model to published TensorRT latencies, and measure how far to trust it.

    python benchmarks/fit_cost_model.py

It reads cost_model/published_latency.csv and the GPU records in engines/results, prints the parameters and
the errors, and writes them to docs/cost-model.md, docs/cost-model.svg and
deploykit/planning/cost_model/cost_model.json. The same input gives the same bytes.
"""

import json
from dataclasses import asdict
from pathlib import Path

from cost_model.errors import compute_interval
from cost_model.fit import fit_parameters, round_parameters
from cost_model.page import FitErrors, draw_residuals_svg, fit_all, tables, with_tables
from cost_model.published import PublishedLatency, keep_tensorrt, read_published
from cost_model.recorded import read_recorded

ROOT = Path(__file__).parents[1]
MODEL_JSON = ROOT / "deploykit" / "planning" / "cost_model" / "cost_model.json"
RECORDS = ROOT / "engines" / "results"
PAGE_MD, RESIDUALS_SVG = ROOT / "docs" / "cost-model.md", ROOT / "docs" / "cost-model.svg"


def main() -> None:
    fits = fit_all(read_all_rows())
    MODEL_JSON.write_text(make_model_json(fits), encoding="utf-8")
    RESIDUALS_SVG.write_text(draw_residuals_svg(fits.without_gpu), encoding="utf-8")
    made = tables(fits)
    PAGE_MD.write_text(with_tables(PAGE_MD.read_text(encoding="utf-8"), made), encoding="utf-8")
    print("\n".join(made.values()))


def read_all_rows() -> tuple[PublishedLatency, ...]:
    """Return the published and the recorded latencies."""
    return (*read_published(), *read_recorded(RECORDS))


def make_model_json(fits: FitErrors) -> str:
    """Return the contents of cost_model.json."""
    published = keep_tensorrt(fits.rows)
    measured, elsewhere, unfamiliar = (compute_interval(pairs) for _, pairs in fits.interval_sources)
    model = {
        "parameters": asdict(round_parameters(fit_parameters(fits.rows))),
        "gpus": sorted({row.gpu for row in published if row.family == "efficientnet"}),
        "families": sorted({row.family for row in published}),
        "precisions": sorted({row.precision for row in published}),
        "largest_batch": max(row.batch for row in published),
        "smallest_macs": min(row.macs for row in published),
        "largest_macs": max(row.macs for row in published),
        "interval_measured": measured,
        "interval_elsewhere": elsewhere,
        "interval_unfamiliar": unfamiliar,
    }
    return json.dumps(model, indent=2) + "\n"


if __name__ == "__main__":
    main()
