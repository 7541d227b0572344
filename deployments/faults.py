"""Calls from one deployment to another, and the errors that cross with them."""

from collections.abc import Awaitable
from typing import Any, TypeVar, cast

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

Result = TypeVar("Result")


def unwrap(error: BaseException) -> BaseException:
    """The error as it was raised, without the wrappers that Ray put around it on each hop."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


async def settled(response: Awaitable[Result]) -> Result:
    """Await a call to another deployment; raises what was raised there."""
    try:
        return await response
    except RayTaskError as error:
        raise unwrap(error) from None


def streamed(handle: DeploymentHandle, method: str, *arguments: Any) -> DeploymentResponseGenerator:
    """Call a streaming method of another deployment."""
    return cast(DeploymentResponseGenerator, handle.options(method_name=method, stream=True).remote(*arguments))
