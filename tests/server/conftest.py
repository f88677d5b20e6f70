"""The demo model behind a server, a client without a library, and what holds or counts the passes of the model."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter

import pytest
from patience import PATIENCE
from serving import running, web

from seka_rag import SteeredModel


@pytest.fixture(scope="session")
def demo() -> SteeredModel:
    return SteeredModel.from_pretrained("seka-demo")


@pytest.fixture(scope="module")
def url(demo):
    with running(demo) as url:
        yield url


@pytest.fixture
def post(url):
    def send(path, body, **options):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.post(url + path, content=data, headers={"content-type": "application/json"}, **options)

    return send


@pytest.fixture
def passes(demo):
    """Lengths of the forward passes so far."""
    seen: list[int] = []

    def count(module, args, out):
        seen.append(out[0].shape[1])
        time.sleep(0.002)  # whoever watches it has a turn

    hook = demo.hf_model.model.register_forward_hook(count)
    yield seen
    hook.remove()


@pytest.fixture
def endless(demo, monkeypatch):
    """The demo's model without an end token."""
    monkeypatch.setattr(demo.hf_model.generation_config, "eos_token_id", 10**6)


class Gate(threading.Event):
    """Where generations of a server stay until this event is set.

    Attributes:
        after: passes that a generation has made by then.
        all: each one stays; otherwise the one that comes first, and others pass by.
        there: how many came here and stayed.
    """

    after, all, there = 0, False, 0

    def __init__(self):
        super().__init__()
        self.passes = Counter()

    def __call__(self, module, args):
        thread = threading.current_thread()
        if thread.name != "seka-generate":  # the server's start tries the model, too
            return
        if self.passes[thread] == self.after and (self.all or not self.there):
            self.there += 1
            assert self.wait(PATIENCE)
        self.passes[thread] += 1


@pytest.fixture
def gate(demo):
    opened = Gate()
    hook = demo.hf_model.model.register_forward_pre_hook(opened)
    yield opened
    opened.set()
    hook.remove()
