"""The errors a user can cause. Each message names the rule, the value received and the cure, on one line."""

from typing import Any


class StackheadsError(Exception):
    """Base of all errors that a user's input can cause; the command line prints it as one line and exits with 2."""


class StackheadsWarning(Warning):
    """What a user should know and need not act on: a run takes the slow road, and why. One line, once for each model."""


class ConfigError(StackheadsError):
    """A task, model or training setting breaks a rule."""


class CheckpointError(StackheadsError):
    """A checkpoint or run folder is missing, damaged, or of another format."""


class TaskMismatchError(StackheadsError):
    """A model and a task do not fit each other (context, vocabulary or attention direction)."""


class TaskError(StackheadsError):
    """A task contradicts itself: its find maps, targets and counterfactuals do not belong together."""


class InterventionError(StackheadsError):
    """An intervention names a head, a row or a source that the model does not have, or did not take effect."""


def bad_setting(what: str, error: Any) -> ConfigError:
    """The first complaint of a pydantic `ValidationError` as one line; `what` names the kind of setting."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ConfigError(f"{what} setting {where}: {first['msg']}, got {first['input']!r}: correct the setting")
