"""What a compiler returns."""

from dataclasses import dataclass

from deploykit.engine.audit.audit import Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine:
    """An engine's bytes and their audit, before there is a manifest.

    Attributes:
        data: The serialized engine.
        timing_cache_sha256: Digest of the timing cache that the build started from; None without one.
    """

    data: bytes
    audit: Audit
    compiler_version: str
    build_seconds: float
    timing_cache_sha256: str | None = None
