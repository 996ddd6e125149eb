"""``/openapi.json``, made from ``operations`` and the types in ``schemas``."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from node.api import schemas
from node.api.operations import ANY_ROLE, CLUSTER, OPERATIONS, PUBLIC, Operation
from node.api.problems import CATALOGUE

# The version of the interface, not of the program. It grows with every compatible addition.
API_VERSION: Final = "1.0"
_REF: Final = "#/components/schemas/{name}"
_COMMON_PROBLEMS: Final = ("http-invalid", "head-too-large", "internal-error", "overloaded")
# Problems of every operation except the health check, which answers in every state of the node.
_CLUSTER_PROBLEMS: Final = ("cluster-changed", "request-invalid")
_ACCESS_PROBLEMS: Final = (
    "credentials-missing",
    "credentials-unknown",
    "credentials-busy",
    "access-not-current",
    "not-ready",
)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    types = [kind for operation in OPERATIONS for kind in _types_of(operation)]
    types = list(dict.fromkeys([*types, schemas.Problem]))
    outer, components = msgspec.json.schema_components(types, ref_template=_REF)
    for kind, rules in schemas.RULES.items():
        components[kind.__name__] |= rules
    schema_of = dict(zip(types, outer, strict=True))
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bondstone",
            "version": API_VERSION,
            "description": "A replicated, attested cluster service for Intel TDX.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "clientCertificate": {"type": "mutualTLS"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def problems_of(operation: Operation) -> tuple[str, ...]:
    """Return every problem code that this operation can answer with."""
    access: tuple[str, ...] = ()
    if operation.access != PUBLIC:
        access = _ACCESS_PROBLEMS
        if operation.access != ANY_ROLE:
            access = (*access, "role-missing")
    cluster = () if operation.name == "health" else _CLUSTER_PROBLEMS
    return tuple(dict.fromkeys((*operation.problems, *access, *cluster, *_COMMON_PROBLEMS)))


def _types_of(operation: Operation) -> Iterable[Any]:
    candidates = (operation.request, *operation.answers, *operation.more_answers.values())
    return (kind for kind in candidates if kind is not None and not isinstance(kind, str))


def _operation(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _answer(operation.answers, schema_of)}
    for status, kind in operation.more_answers.items():
        responses[str(status)] = _answer((kind,), schema_of)
    by_status: dict[int, list[str]] = {}
    for code in problems_of(operation):
        by_status.setdefault(CATALOGUE[code].status.value, []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": " or ".join(f"`{code}`: {CATALOGUE[code].title}." for code in codes),
            "content": {"application/problem+json": {"schema": schema_of[schemas.Problem]}},
        }
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": responses,
        "security": []
        if operation.access == PUBLIC
        else [{"bearer": []}, {"clientCertificate": []}, {"basic": []}],
    }
    if operation.access != PUBLIC:
        described["x-role"] = " or ".join(role.value for role in operation.roles) or operation.access
        described["x-access-list"] = operation.standing.value
    parameters = operation.parameters if operation.name == "health" else (*operation.parameters, CLUSTER)
    if parameters:
        described["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.required,
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in parameters
        ]
    if operation.request is not None:
        described["requestBody"] = _body(operation.request, schema_of)
    return described


def _body(kind: Any, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(kind, str):  # no body is an empty one
        return {"required": False, "content": {kind: {"schema": {"type": "string", "format": "binary"}}}}
    return {"required": True, "content": {"application/json": {"schema": schema_of[kind]}}}


def _answer(kinds: tuple[Any, ...], schema_of: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(kinds[0], str):
        return {"description": "As it is.", "content": {kinds[0]: {"schema": {"type": "string"}}}}
    schemas_of_kinds = [schema_of[kind] for kind in kinds]
    schema = schemas_of_kinds[0] if len(kinds) == 1 else {"oneOf": schemas_of_kinds}
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}
