"""The error of inference that a user can do something about."""


class PredictError(RuntimeError):
    """Inference cannot start or go on; the message is one line that says what to do."""
