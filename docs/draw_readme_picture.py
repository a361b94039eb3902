"""Draw README's picture: published accuracy against measured latency, from the committed records.

python docs/draw_readme_picture.py    # writes docs/images/accuracy-latency.svg
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "deploykit"  # equal records give equal bytes
from matplotlib import pyplot as plt  # noqa: E402  # the backend comes first

import deploykit  # noqa: E402
from deploykit.networks.families.registry import find_family  # noqa: E402

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "engines" / "results" / "cpu"
PICTURE = Path(__file__).parent / "images" / "accuracy-latency.svg"


def main() -> None:
    accuracy = find_family("efficientnet").accuracy
    points = []
    for path in sorted(RECORDS.glob("efficientnet-phi*.fp32.*.single-stream.b1.*.json")):
        record = deploykit.read_record(path)
        phi = int(record.engine.phi)
        points.append((record.percentile_ms(50).value, 100 * accuracy[deploykit.scale_for(phi)].value, phi))
    points.sort()
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.plot([each[0] for each in points], [each[1] for each in points], "o-", color="#1f77b4")
    for latency_ms, top1, phi in points:
        axes.annotate(f"phi {phi}", (latency_ms, top1), xytext=(6, -10), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xticks([5, 10, 20, 50, 100, 200], labels=["5", "10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.set_ylim(76, 85)
    axes.set_xlabel("measured median latency, ms (FP32, batch 1, two CPU cores, ONNX Runtime)")
    axes.set_ylabel("published ImageNet top-1, %")
    axes.set_title("EfficientNet: accuracy against latency")
    axes.grid(visible=True, alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
