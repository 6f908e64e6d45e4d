# SPDX-License-Identifier: Apache-2.0
"""Activation predictors: small networks that say which neurons of an FFN will be active."""
