"""What an error message must look like, for tests with many bad inputs."""

import re


def assert_one_sentence(error: BaseException, names: str) -> None:
    """Assert that the message is one short line that begins with a name and says what is expected.

    names: a regular expression of the names of arguments.
    """
    message = str(error)
    assert type(error) in (TypeError, ValueError), repr(error)
    assert message.isprintable(), message  # no line breaks, no halves of surrogate pairs
    assert len(message) < 400, message
    assert re.match(rf"({names})\b.*: ", message), message
    assert "expected" in message or "choose another" in message, message
