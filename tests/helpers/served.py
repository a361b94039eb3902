"""A Triton server, small engines for it, and images with distinct outputs."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import colour_blocks
from solid_colours import SIDE_PX

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest, write_engine
from deploykit.engine.shapes import BatchRange
from deploykit.serving.triton.installation import TritonInstallation, find_triton
from deploykit.serving.triton.options import Ports, ServerOptions
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError

ROOT = Path(__file__).parents[2]
APART = ROOT / ".cache" / "serve" / "bin" / "python"
ANY_PORTS = Ports(http=0, grpc=0, metrics=0)
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


def options(**others) -> ServerOptions:
    return ServerOptions(
        **{"ports": ANY_PORTS, "body_bytes": 64 * 2**20, "shutdown_timeout_s": 20, "poll_s": None, **others}
    )


def python() -> Path | None:
    """Return the interpreter of Triton's environment, which `make` creates, or None."""
    return APART if APART.is_file() else None


def serve_arguments(*arguments: object) -> list[str]:
    """Return the arguments of deploykit serve, with the interpreter of Triton's environment."""
    which = ("--python", python()) if python() else ()
    return [str(each) for each in ("serve", *arguments, *which)]


def triton() -> TritonInstallation:
    """Return the Triton to test with; skip the test if it is not installed."""
    try:
        return find_triton(python())
    except DeployError as error:
        pytest.skip(f"needs Triton: {error}; make test sets one up")


def colours(folder: Path, *, max_batch: int = 32, labels: tuple[str, ...] | None = None) -> Path:
    """Build an engine whose logits are an image's mean red, green and blue."""
    model = colour_blocks(folder / "colours.onnx")
    batch = BatchRange(min=1, opt=8, max=max_batch)
    path = build_engine(onnx=model, gpu="cpu", batches=[batch], output=folder / "colours.cpu.onnx").path
    if labels is not None:
        manifest = read_engine_manifest(path)
        named = replace(manifest, model=replace(manifest.model, labels=labels))
        write_engine(path, path.read_bytes(), named)
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder at any depth."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): file_sha256(each) for each in files}


def flat_images(count: int, *, seed: int = 0) -> np.ndarray:
    """Return images of one colour each, whose logits equal that colour in any batch."""
    colour = np.random.default_rng(seed).random((count, 3, 1, 1), np.float32)
    return np.ascontiguousarray(np.broadcast_to(colour, (count, 3, SIDE_PX, SIDE_PX)))


def photo(seed: int, *, side_px: int = 64, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()
