"""Everything that can go wrong, as one tree. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class SekaError(Exception):
    """Base of all errors raised by this library.

    Attributes:
        field: where a request over HTTP is wrong, such as ``messages[0].role``; None if no field is to blame.
    """

    field: str | None = None


class SpanError(SekaError, ValueError):
    """A highlight that is empty, outside its text, missing from it or ambiguous."""


class ProvenanceError(SekaError, ValueError):
    """A template did not place its values literally, so where they went cannot be proven."""


class TokenizationError(SekaError, ValueError):
    """A text cannot be mapped to tokens with exact offsets."""


class ContextLengthError(SekaError, ValueError):
    """A prompt does not fit the model's context."""


class BankError(SekaError, ValueError):
    """A bank is damaged, or belongs to another model."""


class UnsupportedModelError(SekaError, ValueError):
    """The model's family, or the way it is run, cannot be steered."""


class SettingError(SekaError, ValueError):
    """A setting with a value that means nothing."""


class SteeringError(SekaError, RuntimeError):
    """Steering was asked for and did not take place."""


class GenerationTimeoutError(SekaError, TimeoutError):
    """An answer was not ready in the time that it was given."""


class RequestError(SekaError, ValueError):
    """A request over HTTP that is not understood, or asks for what a server does not do."""


class LimitError(SekaError, ValueError):
    """A request beyond the limits of a server."""


class AccessError(SekaError, PermissionError):
    """A server wants a key, and it was missing or wrong."""


class BusyError(SekaError, RuntimeError):
    """A server has as many requests as it takes."""


class RemoteError(SekaError, ConnectionError):
    """A server that cannot be reached, that failed, or that is none of ours."""


class LearningError(SekaError, ValueError):
    """Triples from which no bank can be learned."""


class RecordError(SekaError, ValueError):
    """A file of questions or facts that is not in its form, or from which nothing can be made."""


class DocumentError(SekaError, ValueError):
    """A document or folder that cannot be read."""


class ModelNotFoundError(SekaError, OSError):
    """A model that is neither on this machine nor reachable on the Hub."""


class ModelFileError(SekaError, OSError):
    """Files of a model that are damaged, incomplete, or of a form that cannot be read."""


class MissingExtraError(SekaError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        super().__init__(f"{package} is not installed. Install it with: pip install 'seka-rag[{extra}]'")
