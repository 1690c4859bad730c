"""Settings that users write: a bad one is told in a line, however it is given."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from stackheads.errors import bad_setting


class Settings(BaseModel):
    """Base of settings: nothing changes or is unknown, numbers are finite. Raises `ConfigError` that names the first bad one.

    `called` is what they are settings of, in words; of a task its kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    called: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _in_a_line(cls, given: Any, read: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return read(given)
        except ValidationError as error:
            raise bad_setting(cls.called, error) from None
