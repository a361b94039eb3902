"""Builds the smallest and a large published member of every family with TensorRT-RTX, in FP16 and INT8.

    python benchmarks/families.py

Needs no GPU: the engines are for an A10, and are not run.
"""

import tempfile
import time
from pathlib import Path

from deploykit.engine.build import build_engine
from deploykit.networks.export import prepare_export
from deploykit.networks.families.registry import FAMILIES
from deploykit.networks.member import Member, choose_member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.util.types import Precision

GPU = "A10"
LARGEST_GIGA_MACS = 70  # EfficientNet-L2 and EfficientDet-D5 and up take more memory than a small machine has
PRECISIONS: tuple[Precision, Precision] = ("fp16", "int8")


def main() -> None:
    """Prints a table."""
    print("| network | parameters | FP16 engine | built in | INT8 engine | built in | MACs in INT8 |")
    print("|---|---|---|---|---|---|---|")
    for member in chosen():
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, f"{member.name}.onnx")
            model.write_bytes(to_bytes(build_onnx_model(*prepare_export(member))))
            cells = [cell for precision in PRECISIONS for cell in _built(model, precision)]
        mega_parameters = member.network().parameter_count / 1e6
        print(f"| {member.name} | {mega_parameters:.1f} M | {' | '.join(cells)} |", flush=True)


def chosen() -> list[Member]:
    """Of each family the smallest and the largest that is no larger than that; once where these are one."""
    found = []
    for family in FAMILIES.values():
        members = [choose_member(family, named=name) for name in family.members]
        members = [each for each in members if each.network().macs < LARGEST_GIGA_MACS * 1e9]
        members.sort(key=lambda member: member.network().macs)
        found += [members[0], *([members[-1]] if len(members) > 1 else [])]
    return found


def _built(model: Path, precision: Precision) -> list[str]:
    started = time.perf_counter()
    built = build_engine(onnx=model, precision=precision, gpu=GPU)
    took_s = time.perf_counter() - started
    cells = [f"{built.path.stat().st_size / 1e6:.1f} MB", f"{took_s:.1f} s"]
    return [*cells, f"{built.manifest.audit.macs_share('int8'):.1%}"] if precision == "int8" else cells


if __name__ == "__main__":
    main()
