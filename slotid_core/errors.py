"""What the user is told when something is wrong."""

from __future__ import annotations


class SlotIDError(ValueError):
    """An input that cannot be used, told in three parts.

    Args:
        found: what was met, with the name or number that shows it.
        expected: what would have been accepted.
        remedy: what the user can do now.
    """

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{found}\nExpected: {expected}\nWhat to do: {remedy}")
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __reduce__(self) -> tuple:
        # Exceptions rebuild from their one message by default; ours takes three parts (worker processes pickle errors).
        return type(self), (self.found, self.expected, self.remedy)


class SlotIDWarning(UserWarning):
    """Something that works, but not as well as the user may think: a photo as reference, say."""
