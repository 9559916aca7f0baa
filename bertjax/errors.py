"""Mistakes of the user's, said in one sentence; and the user's wish to stop."""


class UserError(Exception):
    """What is wrong, where (file:line if there is one), and what to do instead, in one sentence.

    Raised where the fault is known. The command line prints it and exits with code 2; every other
    exception keeps its traceback and exits with code 1.
    """


class Stopped(BaseException):
    """SIGTERM or SIGINT ended the work early, and the same call goes on with it.

    The command line exits with code 75.
    """
