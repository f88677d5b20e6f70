"""Figures for Prometheus, of one application."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seka_rag.server.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts of what was answered; how many run and wait is read from the admission when it is asked for."""

    def __init__(self, admission: Any) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("seka_requests", "Requests answered", ["path", "status"], registry=registry)
        self.errors = Counter("seka_errors", "Requests that ended in an error", ["kind"], registry=registry)
        self.seconds = Histogram(
            "seka_request_seconds",
            "From arrival to the end of the answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.wait = Histogram("seka_queue_seconds", "Wait for a slot", buckets=_SECONDS, registry=registry)
        self.first = Histogram(
            "seka_first_token_seconds", "From arrival to the first token", buckets=_SECONDS, registry=registry
        )
        self.rows = Histogram(
            "seka_batch_rows", "Requests that ran in one batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.prompt = Counter("seka_prompt_tokens", "Tokens of prompts", registry=registry)
        self.completion = Counter("seka_completion_tokens", "Tokens of answers", registry=registry)
        self.highlighted = Counter("seka_highlighted_tokens", "Tokens of prompts that were steered", registry=registry)
        self.unmarked = Counter("seka_unmarked_requests", "Answers to prompts without a highlight", registry=registry)
        running = Gauge("seka_running_requests", "Requests whose answer is being generated", registry=registry)
        waiting = Gauge("seka_waiting_requests", "Requests that wait for a slot", registry=registry)
        running.set_function(lambda: sum(map(len, admission.running)))
        waiting.set_function(lambda: len(admission.waiting))

    def count(self, exchange: Exchange) -> None:
        """Add one request that has been answered."""
        self.requests.labels(exchange.route, str(exchange.status)).inc()
        self.seconds.labels(exchange.route).observe(exchange.seconds)
        if exchange.error is not None:
            self.errors.labels(exchange.error).inc()
        if exchange.wait is not None:
            self.wait.observe(exchange.wait)
            self.rows.observe(exchange.rows)
        if exchange.first_token is not None:
            self.first.observe(exchange.first_token)
        if exchange.generations:
            first = exchange.generations[0]
            self.prompt.inc(first.prompt_tokens)
            self.completion.inc(sum(g.completion_tokens for g in exchange.generations))
            self.highlighted.inc(first.report.tokens_edited)
            self.unmarked.inc(not exchange.highlights)

    def text(self) -> bytes:
        return generate_latest(self.registry)
