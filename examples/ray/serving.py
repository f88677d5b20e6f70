"""Replicas of a steered model behind one address, with Ray Serve: the server of ``seka-rag serve`` in each of them.

Needs ``pip install 'seka-rag[ray]'``; see docs/how-to/ray.md. ``python examples/ray/serving.py`` starts two nodes on this
machine, serves the model that ships, asks it, and ends one replica while it is being asked.
"""

import os
import time
from typing import Any

import ray
from cluster import cluster
from pydantic import SecretStr
from ray import serve

from seka_rag import Prompt, RemoteModel, SteeredModel
from seka_rag.server import ServerSettings, create_app

PORT = 8300
FACT = "Alec moved to Lyon last year."
PROMPT = Prompt(f"Context: {FACT} Alec shares a house with a parrot.\n\nQuestion: Where does Alec live?").highlight(
    FACT
)
STEERED, PLAIN = ([{"role": "user", "content": content}] for content in (PROMPT, str(PROMPT)))


def application(model: str, bank: str | None = "auto", replicas: int = 2) -> serve.Application:
    """What ``serve.run`` takes. Each replica loads the model, and comes into service only if a trial request was steered."""
    key = os.environ.get("SEKA_API_KEY")
    settings = ServerSettings(api_key=SecretStr(key) if key else None)

    def build() -> Any:  # in the replica
        return create_app(SteeredModel.from_pretrained(model, bank=bank), settings)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name="SteeredModel",
        num_replicas=replicas,
        max_replicas_per_node=1,
        max_ongoing_requests=settings.max_concurrent + settings.max_batch,  # those that wait are answered as one batch
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 1},  # "num_gpus": 1 for a model on a GPU
    )
    return deployment.bind()


def replicas() -> list[str]:
    """The names of the replicas that run now."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(a["name"] for a in actors if a["name"].startswith("SERVE_REPLICA::"))


def main() -> None:
    with cluster():
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(application("seka-demo"))
        model = RemoteModel(f"http://127.0.0.1:{PORT}/v1", api_key=os.environ.get("SEKA_API_KEY"), max_retries=5)
        print("Plain:  ", model.chat(PLAIN, max_new_tokens=5).text)  # what the model remembers about Alec
        print("Steered:", model.chat(STEERED, max_new_tokens=5).text)

        first = replicas()
        ray.kill(ray.get_actor(first[0], namespace="serve"))  # as if its machine had failed
        answers = [model.chat(STEERED, max_new_tokens=5) for _ in range(20)]
        marked = sum(answer.report.tokens_edited == answer.report.tokens_marked > 0 for answer in answers)
        print(f"While one of {len(first)} replicas was gone: {marked} of {len(answers)} answers steered,", end=" ")
        print(f"{len({answer.text for answer in answers})} text")
        while len(replicas()) < len(first) or set(replicas()) == set(first):
            time.sleep(0.5)
        print(f"Replaced: {len(set(replicas()) - set(first))} new replica")
        serve.shutdown()


if __name__ == "__main__":
    main()
