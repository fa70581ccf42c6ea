"""Why a server does not start, and why a request is refused."""


class ServeError(RuntimeError):
    """The server cannot start or go on; the message is one line that says what to do."""


class ListenError(ServeError):
    """The address ``serve.host`` and ``serve.port`` is in use, or is none of this machine."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP: 400 to 499 if the request is wrong, 503 if it may be sent again.
        reason: for the client; line breaks become spaces.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = " ".join(reason.split())
