"""The edge of the gRPC server: bytes become a request here, and every failure becomes a gRPC status.

It does four things to each call, so that no RPC method does any of them: it decodes the request (bytes
that are no message of that type are the caller's INVALID_ARGUMENT, and the service lives on), opens the
server span from the caller's `traceparent`, maps errors, and writes one log line per refused call.
Requests are never logged: their `secrets` fields are what the name says.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from services.csi.errors import status
from stoscore.errors import Code, StosError, invalid
from stoscore.telemetry import get_logger, span

_log = get_logger("csi")
VOLUME_CHARS_MAX = 128

Serve = Callable[[bytes, Any], Awaitable[Any]]


class Edge(grpc.aio.ServerInterceptor):  # type: ignore[misc, type-arg, unused-ignore]  # typed in some releases
    """Wraps every unary RPC of the services behind it."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _guarded(details.method.rpartition("/")[2], handler),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )


def _guarded(method: str, handler: Any) -> Serve:
    async def serve(raw: bytes, context: Any) -> Any:
        started = time.monotonic()
        volume = ""
        with span(
            f"csi.{method}", _traceparent(context), span_kind="server", rpc_system="grpc", rpc_method=method
        ) as opened:
            try:
                request = _decoded(method, handler, raw)
                volume = _volume_of(request)
                opened.set(volume=volume)
                return await _answer(method, handler, request, context)
            except StosError as error:
                code, text = status(error)
                opened.fail(text, code.name)
                elapsed_s = round(time.monotonic() - started, 3)
                fields = {"volume": volume, "grpc_code": code.name, "elapsed_s": elapsed_s}
                _log.info("%s refused: %s", method, text, extra=fields)
        return await context.abort(code, text)

    return serve


def _decoded(method: str, handler: Any, raw: bytes) -> Any:
    try:
        return handler.request_deserializer(raw)
    except DecodeError as error:
        raise invalid(f"these {len(raw)} bytes are no {method} request: {error}") from error


async def _answer(method: str, handler: Any, request: Any, context: Any) -> Any:
    try:
        answer = handler.unary_unary(request, context)
        return await answer if inspect.isawaitable(answer) else answer
    except StosError:
        raise
    except NotImplementedError:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this plugin")
    except Exception as error:  # the shell's edge: a defect of ours must not take the service down
        _log.exception("%s failed unexpectedly", method)
        raise StosError(Code.INTERNAL, f"{method} failed unexpectedly: {type(error).__name__}") from error


def _volume_of(request: Any) -> str:
    """For logs and spans: the id, or the name of a volume that has none yet; bounded, for it is unchecked."""
    names = ("volume_id", "source_volume_id", "snapshot_id", "name")
    text = next((found for name in names if (found := getattr(request, name, ""))), "")
    return str(text)[:VOLUME_CHARS_MAX]


def _traceparent(context: Any) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            return value
    return None
