"""Requests, answers and errors of the robot-selection endpoint, typed. Client and server share this module.

Routes (JSON unless said otherwise; `GET /openapi.json` is the reference):

| Route | Body | Answer |
|---|---|---|
| `POST /v1/select` | `SelectRequest` as JSON, or `multipart/form-data` (below) | `SelectAnswer`; or events |
| `POST /v1/select/batch` | `BatchRequest` | `BatchAnswer`: one item per request, each with its own status |
| `GET /v1/fleet` | | `FleetList`: the default fleet in full, the caller's registered fleets by name and digest |
| `PUT /v1/fleets/{name}` | `FleetRequest` | `FleetAnswer`; 201 where it is new, 200 where it was replaced |
| `GET /v1/fleets/{name}` | | `FleetAnswer` |
| `DELETE /v1/fleets/{name}` | | 204 |
| `GET /v1/model` | | `ModelAnswer` |
| `GET /healthz`, `GET /readyz` | | `Health`; no key needed; `/readyz` is 503 until a model answers |
| `GET /`, `GET /page/{file}`, `GET /openapi.json` | | the page for a person, its files, the reference; no key needed |

Multipart fields of `/v1/select`: `task` (text), `image` (one file), `fleet` (a registered name, or a JSON list of
robots, or `{"robots": [...]}`), `top_k` (integer), `reasoning`, `attention` (`true` or `false`). No other field, none
twice.

Request headers:

| Header | Meaning |
|---|---|
| `Authorization: Bearer ember_<id>_<secret>` | the key; needed where the server has keys |
| `Accept: text/event-stream` | `/v1/select` only: stream the reasoning, then the answer |
| `X-Request-Timeout` | seconds (decimal, above 0, at most 600) from arrival in which the answer is of use |
| `X-Request-ID` | 1 to 64 of `A-Za-z0-9._-`; anything else is replaced by a new one. Comes back in the answer |

Answer headers: `X-Request-ID` always; `X-Model-Version` where a model answered; `Retry-After` (whole seconds) with
429 and 503; `WWW-Authenticate: Bearer` with 401; `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` where the
key has a rate.

Events of a stream, each with one line of JSON as data, in this order: `start` (`StreamStart`), any number of
`reasoning` and then `plan` (`StreamDelta`), and last either `answer` (`SelectAnswer`) or `error` (`Problem`). Lines
that begin with a colon keep the connection alive. Faults that are known before the first event come as an ordinary
problem.

Errors are `application/problem+json` (RFC 9457), `type` being `urn:embervlm:problem:<slug>`:

| Status | Slugs | Retry |
|---|---|---|
| 400 | `malformed` (not JSON, broken multipart, a repeated field) | no |
| 401 | `unauthorized` (no key, an unknown, revoked or expired one) | no |
| 403 | `cross-origin` (without keys: a page of another site, or a host name that is not this machine's) | no |
| 404, 405 | `not-found`, `method-not-allowed` | no |
| 408 | `deadline-exceeded` (the request's own time ran out) | with more time |
| 413 | `body-too-large`, `picture-too-large` (bytes, pixels) | no |
| 415 | `unsupported-media-type`, `unsupported-picture` (not JPEG, PNG or WebP; animated) | no |
| 422 | `invalid` (see `errors`), `unknown-fleet`, `unreadable-picture` | no |
| 429 | `rate-limited`, `quota-exhausted`, `too-many-fleets` | after `Retry-After` |
| 500 | `internal` (nothing about it is told; look for the request id in the log) | yes |
| 503 | `overloaded`, `not-ready`, `shutting-down` | after `Retry-After` |
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = [
    "AttentionMap",
    "BatchAnswer",
    "BatchItem",
    "BatchRequest",
    "ComparisonRecord",
    "FieldError",
    "FleetAnswer",
    "FleetList",
    "FleetRef",
    "FleetRequest",
    "Health",
    "ModelAnswer",
    "ModelRef",
    "PlanStep",
    "Problem",
    "RankedRobot",
    "RobotIn",
    "SelectAnswer",
    "SelectRequest",
    "StreamDelta",
    "StreamStart",
    "Timings",
    "VersionInfo",
]

#: What no configuration can exceed; `serving.limits` may ask for less.
MAX_TASK_CHARS = 4_000
MAX_ROBOTS = 256
MAX_BATCH = 256
MAX_ITEMS = 64
MAX_ITEM_CHARS = 400
MAX_NAME_CHARS = 120
FLEET_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
REQUEST_ID = r"^[A-Za-z0-9._-]{1,64}$"
PROBLEM_TYPE = "urn:embervlm:problem:"
EVENT_STREAM = "text/event-stream"
PROBLEM_JSON = "application/problem+json"

Item = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ITEM_CHARS)]
Items = Annotated[list[Item], Field(max_length=MAX_ITEMS)]
FleetName = Annotated[str, StringConstraints(pattern=FLEET_NAME)]


class _In(BaseModel):
    """What a caller sends: no unknown field, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Out(BaseModel):
    """What the server sends; a client ignores fields that it does not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ---------------------------------------------------------------- requests


class RobotIn(_In):
    """One robot in words: all that the model knows of it."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS, description="distinct within the fleet")
    capabilities: Items = Field(default=[], description="what it can do")
    limitations: Items = Field(default=[], description="what it cannot")
    environments: Items = Field(default=[], description="where it works")


Robots = Annotated[list[RobotIn], Field(min_length=1, max_length=MAX_ROBOTS)]


class SelectRequest(_In):
    """One question: which robots of a fleet should do this task in this scene?"""

    task: str = Field(min_length=1, max_length=MAX_TASK_CHARS, description="what is to be done, in words")
    image: str | None = Field(
        default=None,
        description="the scene as base64 of a JPEG, PNG or WebP (a data: URL of one is taken too), or null",
    )
    fleet: FleetName | Robots | None = Field(
        default=None, description="the name of a registered fleet, a list of robots, or null: the default fleet"
    )
    top_k: int | None = Field(default=None, ge=1, le=MAX_ROBOTS, description="robots listed at most, or null: all")
    reasoning: bool | None = Field(
        default=None, description="write the reasoning and the plan; null: only where the answer is streamed"
    )
    attention: bool = Field(default=False, description="also say where in the picture the model looked")


class BatchRequest(_In):
    """Several questions at once. The server's own bound on their number is in `/v1/model`."""

    requests: list[SelectRequest] = Field(min_length=1, max_length=MAX_BATCH)


class FleetRequest(_In):
    """A fleet to register. Its keys and values are computed once and kept."""

    robots: Robots


# ---------------------------------------------------------------- answers


class RankedRobot(_Out):
    """A robot and the calibrated chance that it can do the task. Chances do not add up to one."""

    robot: str
    confidence: float = Field(ge=0, le=1)


class PlanStep(_Out):
    """One step of the action plan."""

    order: int
    subtask: str
    robot: str


class ModelRef(_Out):
    """Which model answered."""

    name: str = Field(description="its registered name")
    version: str = Field(description="its version in the registry, or dir-<digest> for a folder")
    alias: str | None = Field(description="the alias it was served under: champion, challenger, or null for a folder")


class FleetRef(_Out):
    """Which fleet was asked about."""

    name: str | None = Field(description="default, the registered name, or null for robots given in the request")
    digest: str = Field(description="sha256 over the robots in order, hex")
    robots: int = Field(description="how many")


class Timings(_Out):
    """Where the time went, in milliseconds."""

    read_ms: float = Field(description="reading and checking the request, decoding the picture")
    queue_ms: float = Field(description="waiting for the model")
    model_ms: float = Field(description="the model's passes")
    total_ms: float = Field(description="from arrival to answer")
    batch_size: int = Field(description="requests that shared the model's pass")


class AttentionMap(_Out):
    """How much a robot's selection token looked at each cell of the picture: rows top to bottom, summing to one."""

    robot: str
    weights: list[list[float]]


class SelectAnswer(_Out):
    """The robots, best first, and what goes with them."""

    request_id: str
    model: ModelRef
    fleet: FleetRef
    robots: list[RankedRobot] = Field(description="best first; top_k of them")
    team: list[str] = Field(description="the robots to send; the best one where none is likely to be able")
    none_of_these: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the chance that no robot of the fleet can do it, at even odds beforehand; null where the "
        "model was not calibrated for it",
    )
    familiarity: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the share of validation inputs at least as far from training as this one: near 0, nothing like it "
        "was seen; null where the model has no statistics of it",
    )
    plan: list[PlanStep] = Field(description="empty unless reasoning was asked for")
    reasoning: str | None = Field(description="the steps, one a line; null unless asked for")
    attention: list[AttentionMap] | None = Field(
        default=None, description="one per robot listed; null unless asked for and there is a picture"
    )
    timings: Timings


class FieldError(_Out):
    """One fault of a request."""

    field: str = Field(description="dotted path, as requests.0.task; empty for the body as a whole")
    message: str


class Problem(_Out):
    """An error (RFC 9457)."""

    type: str = Field(description=f"{PROBLEM_TYPE}<slug>")
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = []

    @property
    def slug(self) -> str:
        """The last part of `type`."""
        return self.type.removeprefix(PROBLEM_TYPE)


class BatchItem(_Out):
    """The fate of one question of a batch: an answer (status 200) or a problem."""

    status: int
    answer: SelectAnswer | None = None
    problem: Problem | None = None


class BatchAnswer(_Out):
    """Items in the order of the requests. The n-th has the request id `<request_id>.<n>`, counted from 0."""

    request_id: str
    items: list[BatchItem]


class FleetAnswer(_Out):
    """A fleet as the server knows it."""

    name: str
    digest: str
    robots: list[RobotIn]


class FleetList(_Out):
    """The fleet that is asked about where a request names none, and those that the caller registered."""

    default: FleetAnswer
    registered: list[FleetRef]


class VersionInfo(_Out):
    """A version that is loaded, with what the registry tells of it."""

    name: str
    version: str
    alias: str | None
    source: str = Field(description="models:/name/version, or folder")
    digest: str = Field(description="sha256 of the model folder, hex")
    parameters: int
    precision: Literal["fp32", "bf16"]
    loaded_at: str = Field(description="ISO 8601, UTC")
    lineage: dict[str, str] = Field(description="registry tags: code_revision, data_digest, config_digest, parent")
    metrics: dict[str, float] = Field(description="test figures that the version carries")
    golden: dict[str, Any] = Field(description="what the golden set said before it took traffic")


class ModelAnswer(_Out):
    """What this replica serves. Other replicas follow within the poll interval."""

    serving: VersionInfo
    previous: VersionInfo | None = Field(description="kept beside it while the new one is on probation")
    challenger: VersionInfo | None
    canary_percent: float
    shadow_percent: float
    rejected: dict[str, str] = Field(description="versions that were not let near traffic, and why")
    limits: dict[str, int] = Field(description="the server's own limits: bytes, pixels, characters, robots, batch")
    replica: str


class Health(_Out):
    """Alive, and ready to answer or not."""

    status: Literal["ok", "not-ready"]
    version: str | None = None


# ---------------------------------------------------------------- streams


class StreamStart(_Out):
    """First event: who answers."""

    request_id: str
    model: ModelRef


class StreamDelta(_Out):
    """More text. `step` counts from 0: steps of the reasoning, or entries of the plan."""

    step: int
    text: str


# ---------------------------------------------------------------- recorded comparisons


class ComparisonRecord(_Out):
    """One line of the canary's and shadow's record: no picture, no task text, no key.

    Shadow: both sides answered the same request; the champion's answer was returned. Canary: `challenger` answered and
    was returned, or `champion` did, for requests in the draw; the other side is null.
    """

    kind: Literal["shadow", "canary"]
    time: str = Field(description="ISO 8601, UTC")
    request_id: str
    task_chars: int
    has_image: bool
    fleet_digest: str
    reasoning: bool
    champion: RecordedAnswer | None
    challenger: RecordedAnswer | None


class RecordedAnswer(_Out):
    """What one side said."""

    version: str
    robots: list[RankedRobot]
    team: list[str]
    model_ms: float
    error: str | None = Field(default=None, description="the error's type where it failed; robots and team are empty")


ComparisonRecord.model_rebuild()
