"""What a compiler gives back, before it has a manifest."""

from dataclasses import dataclass

from deploykit.engine.audit.audit import Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine:
    """An engine's bytes, and what is in it.

    Attributes:
        timing_cache_sha256: of the timings the build started from; None for none.
    """

    data: bytes
    audit: Audit
    compiler_version: str
    build_seconds: float
    timing_cache_sha256: str | None = None
