"""A JSON Schema of recipes, for editors; it covers every installed component.

A recipe that extends another sets only what it changes, so nothing is required, and a table without a type
takes the options of every type. Where a table has a type, a chain of if / then / else picks its options: with
`anyOf`, one wrong key makes taplo mark every line of the table.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from toolkit.recipe.sections import SECTIONS, Section
from toolkit.registry.registry import Registry
from toolkit.registry.signature import Option, read_signature

Schema = dict[str, Any]


def recipe_schema(registry: Registry, sections: Sequence[Section] = SECTIONS) -> Schema:
    """The schema of a recipe file."""
    writer = _Writer(registry)
    names: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    properties: Schema = {
        "extends": {
            **names,
            "description": "Recipes that this one changes: .toml files, or packaged by name.",
        },
        "unset": {**names, "description": 'Keys of extended recipes to remove, such as "ema.denoiser".'},
    }
    for section in sections:
        table = writer.section(section)
        if section.per_role:
            table = {"type": "object", "additionalProperties": table}
        table = _or_none(table) if section.optional else table
        properties[section.name] = {**table, "description": section.description}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": writer.definitions,
    }


def _or_none(schema: Schema) -> Schema:
    """The same schema, or "none"; `properties` stay where an editor looks for completions."""
    none = {"const": "none"}
    if "properties" not in schema:
        return {"anyOf": [schema, none]}
    either = {"if": {"type": "string"}, "then": none, "else": schema}
    return {"properties": schema["properties"], **either}


@dataclasses.dataclass(frozen=True)
class _Writer:
    registry: Registry
    definitions: Schema = dataclasses.field(default_factory=dict)  # nested interfaces, which may be recursive

    def section(self, section: Section) -> Schema:
        if dataclasses.is_dataclass(section.interface):
            return self.table(read_signature(section.interface, supplied=()).options)
        common = section.common_options
        options = read_signature(common, supplied=()).options if common else ()
        return self.choice(section.interface, options)

    def choice(self, interface: type, common: tuple[Option, ...] = ()) -> Schema:
        """A table with a type: its own options behind `then`, all options in `properties` for completion."""
        components = self.registry.components(interface)
        union = {option.name: [self.option(option)] for option in common}
        for option in (option for component in components.values() for option in component.options):
            schema, known = self.option(option), union.setdefault(option.name, [])
            if schema not in known:
                known.append(schema)
        types = [{"const": name, "description": c.signature.doc} for name, c in components.items()]
        properties = {
            name: known[0] if len(known) == 1 else {"anyOf": known} for name, known in union.items()
        }
        properties["type"] = {"oneOf": types}
        chain: Schema = {"propertyNames": {"enum": list(properties)}}
        for name in reversed(list(components)):
            own = self.table((*components[name].options, *common), type={"const": name})
            this = {"properties": {"type": {"const": name}}, "required": ["type"]}
            chain = {"if": this, "then": own, "else": chain}
        return {"type": "object", "properties": properties, **chain}

    def table(self, options: Sequence[Option], **more: Schema) -> Schema:
        properties = {**more, **{option.name: self.option(option) for option in options}}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def option(self, option: Option) -> Schema:
        schema = self.plain(option.annotation) if option.nested is None else self.nested(option)
        if option.optional:
            schema = _or_none(schema)
        if not option.required:
            schema = {**schema, "default": "none" if option.default is None else option.default}
        return {**schema, "description": option.description} if option.description else schema

    def plain(self, annotation: Any) -> Schema:
        schema = TypeAdapter(annotation).json_schema(ref_template="#/definitions/{model}")
        self.definitions.update(schema.pop("$defs", {}))  # enumerations
        return schema

    def nested(self, option: Option) -> Schema:
        assert option.nested is not None
        name = f"{option.nested.__module__}.{option.nested.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # reserved, in case one of its components has such a table itself
            self.definitions[name] = self.choice(option.nested)
        table: Schema = {"$ref": f"#/definitions/{name}"}
        if option.plain is not None:
            return {"anyOf": [self.plain(option.plain), table]}
        if option.many is list:
            return {"type": "array", "items": table}
        return {"type": "object", "additionalProperties": table} if option.many is dict else table
