"""The one exception that a user is meant to read."""


class KubefaceError(Exception):
    """One line that names the file, the field or the image, and says what to do.

    The command lines and the components print it without a traceback and exit with 1.
    """


def require(condition: bool, message: str) -> None:
    """Raises KubefaceError(message) unless the condition holds."""
    if not condition:
        raise KubefaceError(message)
