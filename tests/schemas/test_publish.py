"""The published contracts are valid, versioned, complete, and say the same as the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from motet_bus.grants import GRANTS
from motet_schemas import EVENTS, Budget, InvalidInputError, Plan, PlanCreated, PlanStep, StepClaimed, subjects
from motet_schemas.plan import Manifest
from motet_schemas.publish import (
    LISTENERS,
    RECORDS,
    SPEAKERS,
    asyncapi,
    event_schema,
    record_schema,
    schema_files,
    write_schemas,
)

SCHEMAS = {
    **{kind: event_schema(kind) for kind in EVENTS},
    **{name: record_schema(name) for name in RECORDS},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_valid_and_names_its_version(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:motet:{name}:v1"
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described(name: str) -> None:
    schema = SCHEMAS[name]
    silent = [field for field, rules in schema.get("properties", {}).items() if not rules.get("description")]
    assert silent == []


def test_ids_and_files_are_unique() -> None:
    files = schema_files()
    ids = [document["$id"] for document in files.values() if "$id" in document]
    assert len(set(ids)) == len(ids) == len(EVENTS) + len(RECORDS)
    assert len(files) == len(ids) + 1


def test_what_a_contract_writes_is_valid_and_what_it_refuses_is_not() -> None:
    step = PlanStep(id="tone", capability="tone", goal="check", manifest=Manifest(objective="check the tone"))
    body = json.loads(PlanCreated(steps=(step,), budget=Budget()).to_json())
    assert _fits(body, event_schema("plan.created"))
    assert not _fits({**body, "surprise": 1}, event_schema("plan.created"))
    assert not _fits({**body, "steps": []}, event_schema("plan.created"))
    claim = json.loads(StepClaimed(owner="e-1", nonce="n" * 16, ttl_s=30, attempt=1).to_json())
    assert _fits(claim, event_schema("step.claimed"))
    assert not _fits({**claim, "attempt": 0}, event_schema("step.claimed"))


def _fits(body: dict[str, Any], schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(body, schema, cls=Draft202012Validator)
    except jsonschema.ValidationError:
        return False
    return True


def test_writing_puts_every_document_where_it_is_asked_for(tmp_path: Path) -> None:
    written = write_schemas(tmp_path / "new" / "folder")
    assert {path.name for path in written} == set(schema_files())
    assert all(json.loads(path.read_text()) for path in written)
    assert write_schemas(tmp_path / "new" / "folder") == written


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInputError, match="directory: cannot write to"):
        write_schemas(tmp_path / "file")


def _resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _references(node: object) -> list[str]:
    return re.findall(r'"\$ref": "([^"]+)"', json.dumps(node))


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()
    files = schema_files()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    for reference in _references(document):
        if reference.startswith("./"):
            assert reference.removeprefix("./") in files
        else:
            assert _resolve(document, reference), reference


def test_every_channel_declares_exactly_the_parameters_of_its_address() -> None:
    for kind, channel in asyncapi()["channels"].items():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"]), kind


def test_every_address_is_a_subject_of_its_kind() -> None:
    for kind, channel in asyncapi()["channels"].items():
        filled = re.sub(r"{(\w+)}", "1", channel["address"])
        assert subjects.parse(filled).kind == kind


def test_every_operation_uses_a_message_of_its_channel_and_every_event_is_sent_by_somebody() -> None:
    document = asyncapi()
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert [message["$ref"] for message in operation["messages"]] == [f"{channel}/messages/event"]
    assert {kind for kinds in SPEAKERS.values() for kind in kinds} == set(EVENTS)
    assert {kind for kinds in LISTENERS.values() for kind in kinds} <= set(EVENTS)


def test_every_message_carries_the_cloudevents_headers() -> None:
    document = asyncapi()
    headers = document["components"]["messageTraits"]["cloudevent"]["headers"]
    Draft202012Validator.check_schema(headers)
    assert {"ce-id", "ce-type", "ce-source", "ce-specversion"} == set(headers["required"])
    for message in document["components"]["messages"].values():
        assert message["traits"] == [{"$ref": "#/components/messageTraits/cloudevent"}]


def test_the_document_says_of_each_role_what_its_publisher_allows() -> None:
    assert set(GRANTS) <= set(SPEAKERS)
    for role, kinds in SPEAKERS.items():
        if role in GRANTS:
            assert set(kinds) == GRANTS[role], role


def test_the_plan_record_and_the_plan_event_have_the_same_shape() -> None:
    assert record_schema("plan")["properties"] == event_schema("plan.created")["properties"]
    assert Plan.__doc__
    assert Plan.__doc__.strip() in event_schema("plan.created")["description"]
