"""What a request can be answered with instead of a result: a status, and a sentence that says what to do."""

from retrieval.errors import RetrievalError


class RequestError(RetrievalError):
    """A request that is not answered.

    Attributes:
        status: of HTTP, 400 to 599.
        retry_after: seconds after which it is worth trying again, or None.
        close: whether the connection is of no more use, because not all of the request was read.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None, close: bool = False):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.close = close
