"""Keep the secrets of signed addresses out of messages.

A signed address is a key: whoever reads it in a log can use it until it expires.
"""

import re
from collections.abc import Iterator

_SECRET = re.compile(
    r"(?P<name>\b(?:sig|signature|x-amz-signature|x-amz-security-token|x-goog-signature|accountkey)"
    r"(?:=|%3d))[^&;\s\"'<>]+",
    re.IGNORECASE,
)
_HIDDEN = "(hidden)"


def redact(text: str) -> str:
    """Return a text without the signatures and keys in it."""
    return _SECRET.sub(rf"\g<name>{_HIDDEN}", text)


def redacted_cause(error: Exception) -> Exception:
    """Return the error; if it or what it comes from tells a secret, a copy that does not.

    The copy has the same type, if that can be, and nothing that it comes from: a traceback
    would print that too.
    """
    if all(redact(text) == text for each in _chain(error) for text in (str(each), repr(each))):
        return error
    text = redact(str(error))
    try:
        return type(error)(text)
    except TypeError:
        return OSError(text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that a traceback may print with it."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [each.__cause__, each.__context__]
