"""The demo model behind a server, and a client without a library."""

from __future__ import annotations

import json

import httpx
import pytest
from serving import running

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
        return httpx.post(url + path, content=data, headers={"content-type": "application/json"}, timeout=60, **options)

    return send
