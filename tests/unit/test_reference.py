"""docs/reference is what the code says, and everything public is explained."""

from __future__ import annotations

from pathlib import Path

from services.cli.shapes import SHAPES
from services.csi import parameters
from tools import reference


def test_the_pages_are_up_to_date() -> None:
    stale = [name for name, text in reference.pages().items() if (reference.PAGES / name).read_text("utf-8") != text]
    assert not stale, "python -m tools.reference writes them"


def test_every_span_is_explained() -> None:
    assert reference.span_names() == reference.SPANS.keys()


def test_every_attribute_of_a_span_is_explained() -> None:
    assert reference.span_attributes() == reference.ATTRIBUTES.keys()


def test_every_decision_is_explained() -> None:
    assert reference.decision_kinds() == reference.DECISIONS.keys()


def test_every_command_that_tells_something_promises_the_shape_of_its_json() -> None:
    telling = {
        path.removeprefix("stos ")
        for path, command in reference._all_commands()
        if not hasattr(command, "commands") and any(parameter.name == "output" for parameter in command.params)
    }
    assert telling == SHAPES.keys()


def test_every_command_is_explained_and_teaches_by_an_example() -> None:
    for path, command in reference._all_commands():
        assert command.help and (hasattr(command, "commands") or path in command.help), path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path} {parameter.name}"


def test_every_setting_is_explained() -> None:
    for _, settings in reference.SETTINGS:
        assert all(field.description for field in settings.model_fields.values()), settings.__name__


def test_every_parameter_of_a_storage_class_is_explained() -> None:
    told = (Path(reference.ROOT) / "docs" / "csi.md").read_text("utf-8")
    assert all(f"`{name}`" in told for name in parameters._KNOWN)
