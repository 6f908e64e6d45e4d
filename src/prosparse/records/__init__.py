# SPDX-License-Identifier: Apache-2.0
"""What passes between stations: frozen dataclasses, written as JSON. Standard library only."""
