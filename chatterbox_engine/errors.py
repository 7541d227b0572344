"""The public errors of the engine. The service maps each to one HTTP status, in one place."""

from pydantic import ValidationError


class ChatterboxError(Exception):
    """Base of every error the engine raises on purpose; its message says what to do."""


class InvalidRequest(ChatterboxError):
    """The caller's input cannot be used. `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, error: ValidationError) -> "InvalidRequest":
        """The first thing that pydantic found wrong."""
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        return cls(f"{name}: {first['msg']}.", name)


class UnknownVoice(ChatterboxError):
    """No voice of that name or id is stored."""

    def __init__(self, voice: str) -> None:
        super().__init__(voice)
        self.voice = voice

    def __str__(self) -> str:
        return f"There is no voice {self.voice!r}. GET /v1/voices lists the voices there are."


class Overloaded(ChatterboxError):
    """No place is free now. Try again after `retry_after` seconds."""

    def __init__(self, retry_after: float = 1.0, why: str = "All places are taken.") -> None:
        super().__init__(retry_after, why)
        self.retry_after = retry_after
        self.why = why

    def __str__(self) -> str:
        return f"{self.why} Try again in {self.retry_after:g} s."


class ModelUnavailable(ChatterboxError):
    """The model's weights cannot be had, or the model is still warming up."""


class SpeechFailed(ChatterboxError):
    """What was asked for could not be computed; the engine goes on, and so does whoever else is served."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"This could not be spoken: {self.why}. The log of the engine says where it failed; others go on."


class EngineDead(ChatterboxError):
    """An engine's thread has ended; its replica must be replaced."""


def reason(error: BaseException) -> str:
    """Why, in a line: the first of its words, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
