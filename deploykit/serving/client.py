"""Sends images to a server of the KServe protocol, as deploykit serve is one, and reads its answers."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import numpy as np

from deploykit.serving.repository.config import IMAGE
from deploykit.serving.repository.names import IMAGE_SUFFIX
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 60.0
_HOW = "give --url http://HOST:8000, or grpc://HOST:8001"
_UNREAD = "is not a readable image"  # in what the decoding model refuses with


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """Attributes: label: the class's name, or its number where the server knows no names."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server made of an image.

    Attributes:
        odds: of the likeliest classes, falling; () from a model that is no classifier.
        shapes: of each output.
        ms: from sending to the answer, at the client.
    """

    path: Path
    model: str
    version: str
    odds: tuple[Odds, ...]
    shapes: dict[str, tuple[int, ...]]
    ms: float


class Client:
    """A connection to a server; a context manager, that ends it."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        """Raises: DeployError: that is no address."""
        parts = _parts(url)
        self._is_grpc = parts.scheme == "grpc"
        if not self._is_grpc:
            _let_interrupts_pass()
        self._kind: Any = require(f"tritonclient.{parts.scheme}", extra="serve")
        self._refusals: Any = require("tritonclient.utils", extra="serve").InferenceServerException
        self.url = url
        try:
            self._client = self._kind.InferenceServerClient(parts.netloc, **self._connecting())
        except (ValueError, OSError, self._refusals) as error:
            raise DeployError(f"{url!r} is no address of a server.", code="invalid-url", fix=_HOW) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def image_model(self) -> str:
        """The one model there that takes encoded images.

        Raises:
            DeployError: none does, or several do, or nobody answers.
        """
        names = self._asked(self._image_models)
        if len(names) != 1:
            raise DeployError(
                f"{self.url} has {len(names) or 'no'} models for images: {', '.join(names) or 'none'}.",
                code="served-model-ambiguous",
                fix="name one with --model" if names else "serve an engine without --no-images",
            )
        (name,) = names
        return str(name)

    def classify(self, paths: Sequence[Path], model: str | None = None, *, top: int = 5) -> Iterator[Answer]:
        """What a model makes of images, one after another.

        Raises:
            DeployError: a file can't be read, is no image to the server, or nobody answers.
        """
        if missing := [each for each in paths if not each.is_file()]:
            raise DeployError(
                f"There is no image {missing[0]}.", code="file-not-found", fix="give image files"
            )
        name = model or self.image_model()
        inputs, outputs = self._asked(lambda: self._tensors(name))
        if inputs != [(IMAGE, "BYTES")]:
            raise DeployError(
                f"{name} takes no encoded images.",
                code="served-model-wrong-input",
                fix=f"name a model that does, as {name}{IMAGE_SUFFIX}",
            )
        for path in paths:
            yield self._one(path, name, outputs, top)

    def _image_models(self) -> list[str]:
        index = self._client.get_model_repository_index(**self._asking(), **self._as_json())
        models = index.get("models", []) if self._is_grpc else index
        if not isinstance(models, list):
            raise TypeError("an index is a list")
        return sorted({each["name"] for each in models if each["name"].endswith(IMAGE_SUFFIX)})

    def _tensors(self, model: str) -> tuple[list[tuple[str, str]], dict[str, list[int]]]:
        """Names and types of what the model takes, and names and shapes of what it gives."""
        metadata = self._client.get_model_metadata(model, **self._asking(), **self._as_json())
        return (
            [(each["name"], each["datatype"]) for each in metadata["inputs"]],
            {each["name"]: [int(size) for size in each["shape"]] for each in metadata["outputs"]},
        )

    def _one(self, path: Path, model: str, outputs: dict[str, list[int]], top: int) -> Answer:
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise DeployError(
                f"{path} can't be read: {error.strerror}.", code="file-unreadable", fix="give image files"
            ) from error
        image = self._kind.InferInput(IMAGE, [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[encoded]], dtype=np.object_))
        is_classifier = [len(shape) for shape in outputs.values()] == [2]
        wanted = [
            self._kind.InferRequestedOutput(name, class_count=shape[-1] if is_classifier else 0)
            for name, shape in outputs.items()
        ]

        def ask() -> Answer:
            start = time.perf_counter()
            result = self._client.infer(model, [image], outputs=wanted, **self._asking())
            ms = 1000 * (time.perf_counter() - start)
            arrays = {name: result.as_numpy(name) for name in outputs}
            (first, *_) = arrays.values()
            return Answer(
                path=path,
                model=model,
                version=str(result.get_response(**self._as_json())["model_version"]),
                odds=_odds(first[0])[:top] if is_classifier else (),
                shapes={name: tuple(array.shape) for name, array in arrays.items()},
                ms=ms,
            )

        answer: Answer = self._asked(ask, about=path)
        return answer

    def _asked(self, ask: Any, about: Path | None = None) -> Any:
        """What a function makes of the server's answer."""
        try:
            return ask()
        except self._refusals as error:
            raise self._refused(error, about) from error
        except HTTPException as error:
            raise DeployError(
                f"What listens at {self.url} speaks no HTTP.", code="server-protocol-mismatch", fix=_HOW
            ) from error
        except OSError as error:  # of sockets, timeouts among them
            raise self._nobody(error.strerror or str(error)) from error
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # not JSON, or not the protocol's
            raise DeployError(
                f"What answers at {self.url} does not speak the KServe protocol.",
                code="server-protocol-mismatch",
                fix=_HOW,
            ) from error

    def _refused(self, error: Any, about: Path | None) -> DeployError:
        message, status = str(error.message() or error).rstrip("."), str(error.status())
        if self._is_grpc and "UNAVAILABLE" in status and "connect" in message:
            return self._nobody(message)
        if self._is_grpc and "DEADLINE_EXCEEDED" in status:
            return self._nobody("timed out")
        fix = "see what it serves: deploykit serve prints it"
        if status == "413" or "RESOURCE_EXHAUSTED" in status:
            fix = "start the server with a larger --max-body, or send a smaller image"
        elif about is not None and _UNREAD in message:
            fix = "give JPEG, PNG, WebP, BMP, GIF or TIFF files of up to 50 megapixels"
        return DeployError(
            f"{self.url} refuses{f' {about}' if about else ''}: {message}.", code="server-refused", fix=fix
        )

    def _nobody(self, reason: str) -> DeployError:
        return DeployError(
            f"Nobody answers at {self.url} ({reason.lower()}).",
            code="server-unreachable",
            fix=f"deploykit serve ENGINE starts a server; {_HOW}",
        )

    def _connecting(self) -> dict[str, float]:
        return {} if self._is_grpc else {"network_timeout": _TIMEOUT_S, "connection_timeout": _TIMEOUT_S}

    def _asking(self) -> dict[str, float]:
        return {"client_timeout": _TIMEOUT_S} if self._is_grpc else {}

    def _as_json(self) -> dict[str, bool]:
        return {"as_json": True} if self._is_grpc else {}


def _parts(url: str) -> SplitResult:
    """Raises: DeployError: that is no address."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port  # read now: the clients leave a half-made connection behind where it is none
    except ValueError as error:
        raise DeployError(f"{url!r} is no address of a server.", code="invalid-url", fix=_HOW) from error
    is_known = parts.scheme in ("http", "grpc") and parts.hostname
    if not is_known or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise DeployError(f"{url!r} is no address of a server.", code="invalid-url", fix=_HOW)
    return parts


def _let_interrupts_pass() -> None:
    """The HTTP client waits in gevent's hub, which else prints the stack of what ends it."""
    hub: Any = require("gevent", extra="serve").get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)


def _odds(scores: Any) -> tuple[Odds, ...]:
    """Of Triton's texts, SCORE:INDEX or SCORE:INDEX:LABEL, in falling order."""
    parts = [text.decode().split(":", 2) for text in scores]
    logits = np.array([float(each[0]) for each in parts])
    weights = np.exp(logits - logits.max())
    return tuple(
        Odds(label=each[-1], probability=float(weight / weights.sum()))
        for each, weight in zip(parts, weights, strict=True)
    )
