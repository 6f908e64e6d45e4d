# SPDX-License-Identifier: Apache-2.0
"""What ends a run on purpose: a mistake that a user can mend, or a run that goes wrong."""


class UserError(ValueError):
    """A mistake in what the user gave: says what was wrong, what was found, and what to do.

    The command line prints the sentence to stderr and exits with code 2, without a traceback.
    Library callers may catch it as a `ValueError`.
    """


class RunStopped(RuntimeError):
    """A training run stopped itself because it was going wrong; says why and what was saved.

    The command line prints the sentence to stderr and exits with code 3.
    """
