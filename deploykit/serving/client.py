"""Send images to a server that speaks KServe's protocol, as deploykit serve does, and read its answers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

import numpy as np

from deploykit.serving.repository.config import IMAGE_TENSOR
from deploykit.serving.repository.names import IMAGE_SUFFIX
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 60.0
_URL_FIX = "give --url http://HOST:8000, or --url grpc://HOST:8001"
_UNREADABLE = "is not a readable image"  # part of the decoding model's error


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassProbability:
    """A class and its probability.

    Attributes:
        label: Name of the class, or its number if the server has no names.
        probability: Between 0 and 1.
    """

    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """A server's answer to an image.

    Attributes:
        path: The image.
        model: Name of the model that answered.
        version: Its version.
        odds: The likeliest classes, most likely first; () from a model that is not a classifier.
        shapes: Shape of each output.
        ms: Time from request to answer, at the client.
    """

    path: Path
    model: str
    version: str
    odds: tuple[ClassProbability, ...]
    shapes: dict[str, tuple[int, ...]]
    ms: float


class Client:
    """A connection to a server; a context manager that closes it.

    Args:
        url: `http://HOST:PORT` or `grpc://HOST:PORT`.

    Raises:
        DeployError: The URL is not one of these.
    """

    def __init__(self, url: str = DEFAULT_URL) -> None:
        parts = _parse_url(url)
        self._is_grpc = parts.scheme == "grpc"
        if not self._is_grpc:
            _ignore_interrupts_in_gevent()
        self._module: Any = require(f"tritonclient.{parts.scheme}", extra="serve")
        self._error: Any = require("tritonclient.utils", extra="serve").InferenceServerException
        self.url = url
        try:
            self._client = self._module.InferenceServerClient(parts.netloc, **self._connect_options())
        except (ValueError, OSError, self._error) as error:
            raise _invalid_url(url) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def find_image_model(self) -> str:
        """Return the only model on the server that takes encoded images.

        Raises:
            DeployError: No model takes images, several do, or the server does not answer.
        """
        names = self._call(self._image_models)
        if len(names) != 1:
            listed = f" ({', '.join(names)})" if names else ""
            raise DeployError(
                f"{self.url} serves {len(names) or 'no'} models for images{listed}.",
                code="served-model-ambiguous",
                fix="choose one with --model" if names else "serve an engine without --no-images",
            )
        (name,) = names
        return str(name)

    def classify(
        self, paths: Sequence[str | Path], model: str | None = None, *, top: int = 5
    ) -> Iterator[ImageResult]:
        """Yield the answer to each image, one after another.

        Args:
            paths: Image files.
            model: A model that takes encoded images; None for the only one there is.
            top: Most classes to return for an image.

        Raises:
            DeployError: A file can't be read, the server can't decode it, or does not answer.
        """
        files = [Path(each) for each in paths]
        if missing := [each for each in files if not each.is_file()]:
            raise DeployError(
                f"{missing[0]} does not exist.",
                code="file-not-found",
                fix="give image files: deploykit client IMAGE",
            )
        name = model or self.find_image_model()
        inputs, outputs = self._call(lambda: self._tensors(name))
        if inputs != [(IMAGE_TENSOR, "BYTES")]:
            raise DeployError(
                f"{name} does not take encoded images.",
                code="served-model-wrong-input",
                fix=f"choose one that does, for example --model {name}{IMAGE_SUFFIX}",
            )
        for path in files:
            yield self._classify_one(path, name, outputs, top)

    def _image_models(self) -> list[str]:
        index = self._client.get_model_repository_index(**self._call_options(), **self._as_json())
        models = index.get("models", []) if self._is_grpc else index
        if not isinstance(models, list):
            raise TypeError("an index is a list")
        return sorted({each["name"] for each in models if each["name"].endswith(IMAGE_SUFFIX)})

    def _tensors(self, model: str) -> tuple[list[tuple[str, str]], dict[str, list[int]]]:
        """Return names and types of a model's inputs, and names and shapes of its outputs."""
        metadata = self._client.get_model_metadata(model, **self._call_options(), **self._as_json())
        return (
            [(each["name"], each["datatype"]) for each in metadata["inputs"]],
            {each["name"]: [int(size) for size in each["shape"]] for each in metadata["outputs"]},
        )

    def _classify_one(self, path: Path, model: str, outputs: dict[str, list[int]], top: int) -> ImageResult:
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise DeployError(
                f"Cannot read {path}: {error.strerror}.",
                code="file-unreadable",
                fix="give image files: deploykit client IMAGE",
            ) from error
        image = self._module.InferInput(IMAGE_TENSOR, [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[encoded]], dtype=np.object_))
        is_classifier = [len(shape) for shape in outputs.values()] == [2]
        requested = [
            self._module.InferRequestedOutput(name, class_count=shape[-1] if is_classifier else 0)
            for name, shape in outputs.items()
        ]

        def infer() -> ImageResult:
            start = time.perf_counter()
            result = self._client.infer(model, [image], outputs=requested, **self._call_options())
            ms = 1000 * (time.perf_counter() - start)
            arrays = {name: result.as_numpy(name) for name in outputs}
            (first, *_) = arrays.values()
            return ImageResult(
                path=path,
                model=model,
                version=str(result.get_response(**self._as_json())["model_version"]),
                odds=_probabilities(first[0])[:top] if is_classifier else (),
                shapes={name: tuple(array.shape) for name, array in arrays.items()},
                ms=ms,
            )

        return self._call(infer, about=path)

    def _call(self, function: Callable[[], T], about: Path | None = None) -> T:
        """Call a function that asks the server, and raise its failures as DeployErrors."""
        try:
            return function()
        except self._error as error:
            raise self._server_error(error, about) from error
        except HTTPException as error:
            raise DeployError(
                f"The server at {self.url} does not speak HTTP.",
                code="server-protocol-mismatch",
                fix=_URL_FIX,
            ) from error
        except OSError as error:  # from sockets, timeouts among them
            raise self._no_answer(error.strerror or str(error)) from error
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # not JSON, or not the protocol's
            raise DeployError(
                f"The server at {self.url} does not speak the KServe protocol.",
                code="server-protocol-mismatch",
                fix=_URL_FIX,
            ) from error

    def _server_error(self, error: Any, about: Path | None) -> DeployError:
        message, status = str(error.message() or error).rstrip("."), str(error.status())
        if self._is_grpc and "UNAVAILABLE" in status and "connect" in message:
            return self._no_answer(message)
        if self._is_grpc and "DEADLINE_EXCEEDED" in status:
            return self._no_answer("timed out")
        fix = "check the names of the models that deploykit serve printed when it started"
        if status == "413" or "RESOURCE_EXHAUSTED" in status:
            fix = "start the server with a larger --max-body, or send a smaller image"
        elif about is not None and _UNREADABLE in message:
            fix = "give JPEG, PNG, WebP, BMP, GIF or TIFF files of up to 50 megapixels"
        subject = f"{about}" if about else "the request"
        return DeployError(f"{self.url} refused {subject}: {message}.", code="server-refused", fix=fix)

    def _no_answer(self, reason: str) -> DeployError:
        return DeployError(
            f"No server answers at {self.url} ({reason.lower()}).",
            code="server-unreachable",
            fix=f"start one with deploykit serve ENGINE, or {_URL_FIX}",
        )

    def _connect_options(self) -> dict[str, float]:
        return {} if self._is_grpc else {"network_timeout": _TIMEOUT_S, "connection_timeout": _TIMEOUT_S}

    def _call_options(self) -> dict[str, float]:
        return {"client_timeout": _TIMEOUT_S} if self._is_grpc else {}

    def _as_json(self) -> dict[str, bool]:
        return {"as_json": True} if self._is_grpc else {}


def _parse_url(url: str) -> SplitResult:
    """Split a server's URL.

    Raises:
        DeployError: It is not `http://HOST:PORT` or `grpc://HOST:PORT`.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port  # raises ValueError early; tritonclient would leave a half-made connection behind
    except ValueError as error:
        raise _invalid_url(url) from error
    is_known = parts.scheme in ("http", "grpc") and parts.hostname
    if not is_known or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise _invalid_url(url)
    return parts


def _invalid_url(url: str) -> DeployError:
    return DeployError(f"{url!r} is not the URL of a server.", code="invalid-url", fix=_URL_FIX)


def _ignore_interrupts_in_gevent() -> None:
    """Keep gevent, in which the HTTP client waits, from printing a stack trace on Ctrl-C."""
    hub: Any = require("gevent", extra="serve").get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)


def _probabilities(scores: Any) -> tuple[ClassProbability, ...]:
    """Convert Triton's texts, SCORE:INDEX or SCORE:INDEX:LABEL, in falling order."""
    parts = [text.decode().split(":", 2) for text in scores]
    logits = np.array([float(each[0]) for each in parts])
    weights = np.exp(logits - logits.max())
    return tuple(
        ClassProbability(label=each[-1], probability=float(weight / weights.sum()))
        for each, weight in zip(parts, weights, strict=True)
    )
