"""What a person or a program is told when something cannot be done.

An error is a code and a sentence. Each front end translates the code once;
anything that is not an AppError is an "internal error" and goes to the log.
"""


class AppError(Exception):
    def __init__(self, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


def bad_request(message: str) -> AppError:
    return AppError("bad_request", message)


def unauthorized(message: str) -> AppError:
    return AppError("unauthorized", message)


def forbidden(message: str) -> AppError:
    return AppError("forbidden", message)


def not_found(message: str) -> AppError:
    return AppError("not_found", message)


def conflict(message: str) -> AppError:
    return AppError("conflict", message)


def too_large(message: str) -> AppError:
    return AppError("too_large", message)


def invalid(message: str) -> AppError:
    return AppError("invalid", message)


def too_many(message: str, retry_after: int) -> AppError:
    return AppError("too_many", message, retry_after=retry_after)


def unavailable(message: str) -> AppError:
    return AppError("unavailable", message)


class ConfigError(Exception):
    """A setting that stops the start; the message says which one and how to mend it."""
