"""The two kinds of failure that cross rooms.

Every room names its own errors and derives them from one of these. The command line turns them into
one sentence and an exit code; it never shows a traceback for them.
"""


class TacitError(Exception):
    """Something went wrong that a person can be told in one sentence.

    >>> str(TacitError("the keyholder does not answer; it is tried again in 4 s"))
    'the keyholder does not answer; it is tried again in 4 s'
    """

    retryable = False  # would the same call, later, have a chance?
    exit_code = 1


class InputError(TacitError):
    """What was given (a file, a setting, a Plan) is wrong, and nothing was done with it."""

    exit_code = 2
