"""The errors a user can mend. Each prints as one line that says what to do next, and exits 2."""


class LakeError(Exception):
    """Something the user can mend; the message says what is wrong and what to do next."""


class GateError(LakeError):
    """A gate stopped the run: the data is not as declared. Exits 1, as a failed test does."""
