# SPDX-License-Identifier: Apache-2.0
"""The one exception for mistakes a user can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: says what was wrong, what was found, and what to do.

    The command line prints the sentence to stderr and exits with code 2, without a traceback.
    Library callers may catch it as a `ValueError`.
    """
