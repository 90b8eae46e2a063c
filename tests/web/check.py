"""Checks by public validators: the OpenAPI document, and what the node answers against the schemas of that document.

    check.py openapi BASE TOKEN     the document is valid OpenAPI 3.1; every GET without unknown parameters conforms to it
    check.py tls BASE CERT TOKEN    a client that trusts CERT gets an answer, one that does not gets none
"""

import json
import ssl
import sys
import urllib.error
import urllib.request

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator


def get(base, path, token, context=None):
    request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def openapi(base, token):
    document = json.loads(get(base, "/openapi.json", token)[2])
    errors = list(OpenAPIV31SpecValidator(document).iter_errors())
    assert not errors, "\n".join(str(error) for error in errors)
    world = json.loads(get(base, "/v1/worlds?limit=1", token)[2])["worlds"][0]["name"]
    checked = 0
    for path, item in document["paths"].items():
        operation = item.get("get")
        if not operation:
            continue
        media = operation["responses"]["200"]["content"]
        if "application/json" not in media:
            continue
        status, kind, body = get(base, path.replace("{world}", world), token)
        if status != 200:
            assert kind == ("application/json" if path == "/readyz" else "application/problem+json"), (path, status, kind)
            media = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}} if path != "/readyz" else media
        # References are to the document: its components are put beside the schema.
        schema = {**media["application/json"]["schema"], "components": document["components"]}
        problems = [f"{path}: {error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(json.loads(body))]
        assert not problems, "\n".join(problems[:10])
        checked += 1
    print(f"{len(document['paths'])} paths valid, {checked} answers conform")
    assert checked >= 12, checked


def tls(base, certificate, token):
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False
    status, _, body = get(base, "/v1/me", token, trusting)
    assert status == 200 and json.loads(body)["role"] == "viewer", (status, body)
    try:
        get(base, "/healthz", token, ssl.create_default_context())
    except urllib.error.URLError as error:
        assert "certificate verify failed" in str(error), error
    else:
        raise AssertionError("a client that does not trust the certificate was served")


if __name__ == "__main__":
    {"openapi": openapi, "tls": tls}[sys.argv[1]](*sys.argv[2:])
