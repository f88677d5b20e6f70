"""Trial requests before a server starts, which prove that highlights take effect."""

from __future__ import annotations

import torch

from seka_rag.errors import SteeringError
from seka_rag.model.steered import SteeredModel
from seka_rag.text.prompt import Prompt

_TEXT = "Ada moved to Lyon. Where does Ada live?"


def check_steering(model: SteeredModel) -> None:
    """Ask for one token, steered and with gain 0.

    Raises:
        SteeringError: no bank, nothing was edited, the edit changes nothing, or gain 0 changes something.
    """
    method = model.usual_steering
    if method is None:
        raise SteeringError(
            f"{model.name} has no bank, so a server of it could steer nothing. Learn one (seka-rag learn) and pass --bank"
        )
    prompt = Prompt(_TEXT).mark(0, 18)
    edited, steered = _scores(model, prompt, "auto")
    untouched, plain = _scores(model, prompt, method.with_strength(0.0))
    _, never = _scores(model, prompt, None)
    if not edited:
        raise SteeringError(f"a trial request to {model.name} edited no key; is its gain 0, or its bank empty?")
    if torch.equal(steered, plain):
        raise SteeringError(f"a trial request to {model.name} edited {edited} tokens, and the answer is as without")
    if untouched or not torch.equal(plain, never):
        raise SteeringError(f"a trial request to {model.name} with gain 0 is not the plain model's answer")


def _scores(model: SteeredModel, prompt: Prompt, steering: object) -> tuple[int, torch.Tensor]:
    """Tokens edited, and the scores of the first new token."""
    seen: list[torch.Tensor] = []

    def note(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(scores.clone())
        return scores

    done = model.generate(prompt, steering=steering, max_new_tokens=1, logits_processor=[note])
    return done.report.tokens_edited, seen[0]
