"""The exception that reaches a user: what went wrong, a stable code for it, and how to fix it."""


class DeployError(Exception):
    """A problem that the user can fix.

    Args:
        problem: One sentence that says what is wrong and names the offending value.
        code: A stable name for this kind of problem, for example `engine-not-found`. Sentences may change
            from release to release, codes do not. docs/troubleshooting.md explains each.
        fix: What to do about it, a command where possible.
    """

    exit_code = 2

    def __init__(self, problem: str, *, code: str, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} Fix: {self.fix}"


class NothingFitsError(DeployError):
    """Valid targets that no network meets, detected before any network was measured."""

    exit_code = 3
