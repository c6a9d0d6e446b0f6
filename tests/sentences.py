"""What an error message must look like, for tests with many bad inputs."""

import re


def assert_one_line(error: BaseException) -> None:
    """Assert that the message is short and has no line breaks and no halves of surrogate pairs."""
    assert str(error).isprintable(), repr(error)
    assert 10 < len(str(error)) < 400, repr(error)


def assert_one_sentence(error: BaseException, names: str) -> None:
    """Assert that the message is one short line that begins with a name and says what is expected.

    names: a regular expression of the names of arguments.
    """
    message = str(error)
    assert type(error) in (TypeError, ValueError), repr(error)
    assert_one_line(error)
    assert re.match(rf"({names})\b.*: ", message), message
    assert "expected" in message or "choose another" in message, message
