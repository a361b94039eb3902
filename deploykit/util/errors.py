"""The one exception that reaches a user: what went wrong, and what to do about it."""


class DeployError(Exception):
    """A problem the user can act on.

    Args:
        problem: one sentence: what is wrong, with the offending value.
        fix: what to do, a command where there is one.
    """

    exit_code = 2

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} Fix: {self.fix}"


class NothingFitsError(DeployError):
    """Sound targets that nothing meets, found out before there is anything to show."""

    exit_code = 3
