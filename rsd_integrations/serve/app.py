"""The ASGI app: routes and their handlers."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from rsd_core import Decoder, Drafter, Limits, Prompt, RSDError, Target, as_prompt
from rsd_core.data import masked
from rsd_core.version import __version__
from rsd_integrations.answer_forms import AnswerForm, form_of
from rsd_integrations.chat_fields import DEFAULTS, TURN_FIELDS
from rsd_integrations.serve.config import ServeConfig
from rsd_integrations.serve.edge import Edge
from rsd_integrations.serve.errors import DOCUMENTED, ApiError, as_api_error, of_validation, too_long, unsupported
from rsd_integrations.serve.forms import ChatForm, CompletionForm
from rsd_integrations.serve.jobs import Job
from rsd_integrations.serve.prompts import prompt_of
from rsd_integrations.serve.replies import JSON, Form, Reply
from rsd_integrations.serve.requests import Asked, ChatRequest, CompletionRequest, ResponsesRequest
from rsd_integrations.serve.response_requests import as_chat
from rsd_integrations.serve.responses import ResponsesForm
from rsd_integrations.serve.serving import Serving
from rsd_integrations.tool_calls import sees_tools

logger = logging.getLogger(__name__)
METRICS = "text/plain; version=0.0.4; charset=utf-8"
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer; with `stream`, as events.", "content": {"text/event-stream": {}}}
}
"""Answers in the OpenAPI document."""


def create_app(
    config: ServeConfig | None = None,
    *,
    decoders: Mapping[str, Decoder] | None = None,
    keys: Sequence[str] = (),
    serving: Serving | None = None,
) -> FastAPI:
    """RSD behind the OpenAI API's routes, as an ASGI app for any server, or to be mounted in another app.

    Models are loaded when the app starts, or if it is mounted, at the first request.

    Args:
        config: The models to serve, and the server's limits; the embedded family by default.
        decoders: Decoder objects by the names that clients use.
        keys: Each grants access to the routes under /v1; without any, access is open.
        serving: The state of an existing server, instead of a configuration and decoders.

    Raises:
        ConfigurationError: There is no model, or two have the same name.
    """
    if serving is None:
        serving = Serving(config or (ServeConfig() if decoders else ServeConfig.embedded()), decoders)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await serving.models.load()
        yield
        await serving.models.aclose()

    app = FastAPI(
        title="Reward-guided speculative decoding",
        version=__version__,
        summary="The OpenAI API over decoders that draft each step with a cheap model, score it, and replace bad ones.",
        lifespan=lifespan,
        responses=DOCUMENTED,
        docs_url=None,  # pages that would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.serving = serving
    _add_errors(app, serving)
    _add_state(app, serving)
    _add_answers(app, serving)
    app.add_middleware(Edge, serving=serving, keys=keys)
    return app


def _add_errors(app: FastAPI, serving: Serving) -> None:
    def answer(_: Request, error: Exception) -> Response:
        told = as_api_error(error)
        return Response(told.body, told.status, told.headers, JSON)

    def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 413:
            return answer(request, too_long(serving.config.max_body))
        what = f"there is no {request.url.path!r:.100} here: the API is under /v1, as in /v1/chat/completions"
        what = what if error.status_code == 404 else str(error.detail)
        return answer(request, ApiError(error.status_code, what, headers=error.headers))

    def of_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, of_validation(error.errors()))

    app.add_exception_handler(ApiError, answer)
    app.add_exception_handler(RSDError, answer)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_body)
    app.add_exception_handler(Exception, answer)


def _add_state(app: FastAPI, serving: Serving) -> None:
    @app.head("/health", include_in_schema=False)  # some load balancers use this
    @app.get("/health", responses={503: {"description": "Starting up or shutting down."}})
    async def health() -> Response:
        """Whether requests are accepted: 200, or 503 while models load and while the server shuts down."""
        serving.warm_up()  # a mounted app gets no startup event
        state = "draining" if serving.admission.draining else "ok" if serving.models.ready else "loading"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters in Prometheus's text format."""
        return Response(serving.metrics.text(), media_type=METRICS)

    @app.get("/v1/models")
    async def models() -> Any:
        """The models by name."""
        await _loaded(serving)
        return {"object": "list", "data": [_described(serving, model.name) for model in serving.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        """One of them."""
        await _loaded(serving)
        return _described(serving, name)


def _described(serving: Serving, name: str) -> dict[str, Any]:
    model = serving.models.get(name)
    about = {"id": model.name, "object": "model", "created": model.created, "owned_by": "rsd"}
    return about if model.context is None else {**about, "max_model_len": model.context}


def _add_answers(app: FastAPI, serving: Serving) -> None:
    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(asked: ChatRequest) -> Response:
        """Answer messages."""
        options = asked.stream_options
        form = ChatForm(asked.model, trace=asked.rsd.trace, usage=bool(options and options.include_usage))
        return await _chat(serving, asked, form)

    @app.post("/v1/responses", responses=STREAMED)
    async def responses(asked: ResponsesRequest) -> Response:
        """Answer a text or items. Nothing is stored: send the whole conversation."""
        return await _chat(serving, as_chat(asked), ResponsesForm(asked))

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(asked: CompletionRequest) -> Response:
        """Answer prompts, each as a user message."""
        decoder = await _decoder(serving, asked)
        options = asked.stream_options
        form = CompletionForm(asked.model, trace=asked.rsd.trace, usage=bool(options and options.include_usage))
        prompts = [as_prompt(prompt) for prompt in asked.prompts]
        return _reply(serving, asked, decoder, prompts, form, n=asked.n or 1, stop=asked.stops)


async def _chat(serving: Serving, asked: ChatRequest, form: Form) -> Response:
    decoder = await _decoder(serving, asked)
    in_turns, calls = decoder.settings.granularity == "turn", asked.tool_choice != "none"
    tools = asked.tools if calls or in_turns else None  # in steps, tools that are not shown cannot be called
    shape = None
    if not in_turns:
        shape = form_of(asked.tools or (), asked.tool_choice, asked.response_format, asked.parallel_tool_calls)
    if shape is not None:
        decoder = shape.decoder(decoder)
    if tools and (unseen := _blind(decoder)) is not None:
        if shape is None or not shape.calls:
            raise unseen
        tools = None  # the answer's form describes them
    prompt, may_call = prompt_of(asked.messages, tools), bool(tools) and calls
    return _reply(
        serving, asked, decoder, [prompt], form, n=asked.n or 1, stop=asked.stops, tools=may_call, shape=shape
    )


async def _loaded(serving: Serving) -> None:
    """Wait for the models. If they cannot be loaded, the request is not at fault, and the reason goes to the log."""
    try:
        await serving.models.load()
    except RSDError as error:
        logger.error("the models cannot be loaded: %s", masked(str(error)))
        raise ApiError(
            503, "the models cannot be loaded; see the server's log", "server_error", code="not_loaded"
        ) from error


async def _decoder(serving: Serving, asked: Asked) -> Decoder:
    await _loaded(serving)
    model = serving.models.get(asked.model)
    limits = asked.rsd.limits
    if asked.longest is not None:
        limits = (limits or Limits()).tightened(Limits(max_tokens=asked.longest))
    settings = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
    fields = {name: value for name, value in asked.fields.items() if name not in DEFAULTS or value != DEFAULTS[name]}
    if model.granularity == "step":  # honoured here
        fields = {name: value for name, value in fields.items() if name not in TURN_FIELDS}
    return model.decoder(settings, limits, asked.rsd.policy, fields)


def _blind(decoder: Decoder) -> ApiError | None:
    """The error if a model would not see the tools."""
    granularity = decoder.settings.granularity
    for model in decoder.models:
        if isinstance(model, Drafter | Target) and not sees_tools(model, granularity):
            turns = "; in granularity turn it would be sent them" if sees_tools(model, "turn") else ""
            told = f"{model.name} does not see them, since its chat template has no place for them{turns}"
            return unsupported("tools", told)
    return None


def _reply(
    serving: Serving,
    asked: Asked,
    decoder: Decoder,
    prompts: Sequence[Prompt],
    form: Form,
    *,
    n: int = 1,
    stop: Sequence[str] = (),
    tools: bool = False,
    shape: AnswerForm | None = None,
) -> Response:
    job = Job(asked.model, decoder, prompts, n, asked.seed, stop, tools, asked.rsd.trace, shape)
    serving.admission.enter(len(job.answers))
    return Reply(job, form, serving, stream=bool(asked.stream))
