"""Figures for Prometheus beside vLLM's own, at its ``/metrics``; counted in the process that takes requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Metrics:
    """Counts of answers that were steered, by the digest of the bank, and of requests that were refused.

    Args:
        registry: None for the one that vLLM shows.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import REGISTRY, Counter

        counter = partial(Counter, registry=registry or REGISTRY)
        self.answers = counter("seka_steered_answers", "Answers that ended and were steered", ["bank"])
        self.tokens = counter("seka_highlighted_tokens", "Tokens of prompts that were steered", ["bank"])
        self.missed = counter("seka_unsteered_tokens", "Highlighted tokens that were not steered", ["bank"])
        self.refused = counter("seka_refused_requests", "Requests whose highlights were refused")

    def count(self, report: Mapping[str, Any]) -> None:
        """Add an answer that ended; one that was not to be steered, such as a probe, is left out."""
        if report["gain"]:
            bank, edited = report["bank"], report["tokens_edited"]
            self.answers.labels(bank).inc()
            self.tokens.labels(bank).inc(edited)
            self.missed.labels(bank).inc(report["tokens_marked"] - edited)
