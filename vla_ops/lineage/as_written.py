"""The `attributes` of a component's YAML, as Dagster is to see them."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def as_written(schema: type[BaseModel]) -> type[BaseModel]:
    """A model that takes any attributes and shows `schema` to `dg check yaml`, the documentation and editors.

    The component's own loader names every mistake with its line; Dagster's check would stop at the first.
    """

    class AsWritten(BaseModel):
        """Any attributes."""

        model_config = ConfigDict(extra="allow")

        @classmethod
        def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
            """That of `schema`."""
            return schema.model_json_schema(*args, **options)

    return AsWritten
