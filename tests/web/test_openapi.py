"""The description of the API against the API: generated requests, with and without sense, get no 5xx."""

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("schemathesis", reason="needs the extra dev")

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from retrieval.datasets.labels import held
from retrieval.index.collection import Collection
from retrieval.web import openapi
from retrieval.web.service import image_id
from tests.web.web_client import make_client

pytest_plugins = ("schemathesis.pytest.plugin",)  # here alone: each process of the tests would load it
SCHEMA = schemathesis.openapi.from_dict(openapi.description(100_000, labelling=True))
KNOWN = ("scenes/coffee_0.jpg", "brick.png", "ramp.png")


@pytest.fixture(scope="module")
def client(index, tmp_path_factory):
    file = tmp_path_factory.mktemp("labels") / "labels.csv"
    with (
        held(file, Collection.open(index).images) as labels,
        make_client(index, hosts=None, upload_bytes=100_000, labels=labels) as found,
    ):
        yield found


@SCHEMA.parametrize()
@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(client, case):
    case.headers = {key: value for key, value in (case.headers or {}).items() if key.lower() != "authorization"}
    for key in ("id", "query", "hit"):
        if isinstance(case.body, dict) and key in case.body and len(str(case.body[key])) == 16:
            case.body[key] = image_id(KNOWN[len(str(case.body)) % 3])  # some find something
    if case.path_parameters and "id" in case.path_parameters and len(case.path_parameters["id"]) == 16:
        case.path_parameters["id"] = image_id(KNOWN[len(str(case.query)) % 3])
    given = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
    keys = ("method", "url", "params", "headers", "cookies", "json", "data", "files")
    request = requests.Request(**{key: given[key] for key in keys if key in given}).prepare()
    body = request.body.encode("utf-8", "surrogatepass") if isinstance(request.body, str) else request.body
    headers = {key: value for key, value in request.headers.items() if key.lower() not in ("host", "content-length")}
    answer = client.request(request.method, request.url, headers=headers, content=body)
    assert answer.status_code < 500 or answer.status_code == 503, (request.method, request.url, request.body)
    operation = SCHEMA.raw_schema["paths"][case.path].get(case.method.lower())
    if operation is None:  # a method that is not described
        assert answer.status_code in (403, 405)
        return
    described = operation["responses"]
    assert str(answer.status_code) in described, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"}
        return
    content = described[str(answer.status_code)]["content"]
    assert answer.headers["content-type"] in content
    if "application/json" in content:
        import jsonschema_rs

        schema = {**content["application/json"]["schema"], "components": SCHEMA.raw_schema["components"]}
        jsonschema_rs.validate(schema, answer.json())
