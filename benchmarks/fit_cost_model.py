"""Fits deploykit's cost model to published TensorRT latencies and says how far to trust it.

    python benchmarks/fit_cost_model.py

Reads cost_model/published_latency.csv and the records of GPUs in engines/results, prints the parameters and
the errors, and writes them into docs/cost-model.md, docs/cost-model.svg and
deploykit/planning/cost_model/cost_model.json. The same input gives the same bytes.
"""

import json
from dataclasses import asdict
from pathlib import Path

from cost_model.errors import interval
from cost_model.fit import fit, rounded
from cost_model.page import Evidence, gather, residuals_svg, tables, with_tables
from cost_model.published import Row, of_tensorrt, read_rows
from cost_model.recorded import read_recorded

ROOT = Path(__file__).parents[1]
MODEL_JSON = ROOT / "deploykit" / "planning" / "cost_model" / "cost_model.json"
RECORDS = ROOT / "engines" / "results"
PAGE_MD, RESIDUALS_SVG = ROOT / "docs" / "cost-model.md", ROOT / "docs" / "cost-model.svg"


def main() -> None:
    evidence = gather(known_rows())
    MODEL_JSON.write_text(model_json(evidence), encoding="utf-8")
    RESIDUALS_SVG.write_text(residuals_svg(evidence.left_gpu), encoding="utf-8")
    made = tables(evidence)
    PAGE_MD.write_text(with_tables(PAGE_MD.read_text(encoding="utf-8"), made), encoding="utf-8")
    print("\n".join(made.values()))


def known_rows() -> tuple[Row, ...]:
    """Published and recorded."""
    return (*read_rows(), *read_recorded(RECORDS))


def model_json(evidence: Evidence) -> str:
    """What cost_model.json holds."""
    published = of_tensorrt(evidence.rows)
    measured, elsewhere, unfamiliar = (interval(pairs) for _, pairs in evidence.behind_intervals)
    model = {
        "parameters": asdict(rounded(fit(evidence.rows))),
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
