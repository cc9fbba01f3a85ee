"""The OpenAPI document is complete: whoever reads it need not read the code."""

from __future__ import annotations

import pytest

from gpu_mesh.api.application import create
from gpu_mesh.settings import settings

METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def document():
    return create(settings()).openapi()


@pytest.fixture(scope="module")
def operations(document):
    return [
        (f"{method.upper()} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_the_order_is_there(operations):
    """SPEC A1."""
    names = {name for name, _ in operations}
    assert {"GET /", "GET /health", "GET /mesh/status", "GET /mesh/nodes"} <= names


def test_every_operation_says_what_it_does(operations):
    assert [name for name, one in operations if not (one.get("description") and one.get("tags"))] == []


def test_every_parameter_is_described(operations):
    assert [
        (name, parameter["name"])
        for name, one in operations
        for parameter in one.get("parameters", [])
        if not parameter.get("description")
    ] == []


def test_every_error_is_a_problem(operations):
    wrong = [
        (name, status)
        for name, one in operations
        for status, told in one["responses"].items()
        if status >= "400" and list(told.get("content", {})) != ["application/problem+json"]
    ]
    assert wrong == []


def test_every_error_that_a_body_may_cause_is_named(operations):
    with_body = [(name, set(one["responses"])) for name, one in operations if "requestBody" in one]
    assert with_body
    assert [name for name, statuses in with_body if not {"400", "422"} <= statuses] == []


def test_every_field_of_our_own_is_described_or_has_an_example(document):
    """Bodies; what a service's dataclass holds is told by its description, and by the example of the answer."""
    bare = [
        (name, field)
        for name, schema in document["components"]["schemas"].items()
        for field, told in schema.get("properties", {}).items()
        if not ("description" in told or "examples" in told or "$ref" in str(told) or schema.get("description"))
    ]
    assert bare == []


def _parts(document, schema):
    """A schema and all it refers to, its list's items and its fields, one level deep."""
    schema = _resolved(document, schema)
    yield schema
    for part in (*schema.get("anyOf", []), *schema.get("properties", {}).values()):
        part = _resolved(document, part)
        yield part
        yield from _resolved(document, part).get("properties", {}).values()
        yield from _resolved(document, part.get("items", {})).get("properties", {}).values()


def _resolved(document, schema):
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _has_example(document, content):
    parts = [content, *_parts(document, content["schema"])]
    return any("example" in part or "examples" in part for part in parts)


def test_every_answer_and_every_body_has_an_example(document, operations):
    bare = []
    for name, one in operations:
        answers = [told for status, told in one["responses"].items() if status.startswith("2")]
        for told in [*answers, *filter(None, [one.get("requestBody")])]:
            content = (told.get("content") or {}).get("application/json")
            if content is not None and not _has_example(document, content):
                bare.append(name)
    assert bare == []
