"""The base of all configuration classes."""

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fastvgan.errors import UserError


class Settings(BaseModel):
    """Checked, unchangeable settings; a bad value is a `UserError` of one sentence that names the setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _one_sentence(cls, values, handler):
        try:
            return handler(values)
        except ValidationError as error:
            raise UserError("; ".join(_sentence(item) for item in error.errors())) from error


def _sentence(item) -> str:
    setting = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{setting} is not a setting"
    if not setting:
        return item["msg"].removeprefix("Value error, ")
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{setting} {message}, not {item['input']!r:.80}"
