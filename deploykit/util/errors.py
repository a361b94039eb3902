"""The exception that users see: the problem, a stable code for it, and the fix."""


class DeployError(Exception):
    """A problem that the user can fix.

    Args:
        problem: One sentence that says what is wrong and names the offending value.
        code: A stable name for this kind of problem, for example `engine-not-found`. Sentences may change
            from release to release, codes do not. docs/troubleshooting.md explains each.
        fix: How to solve it, as a command if possible.
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
