"""Tests, sorted by the packages that they test."""

import pytest

pytest.register_assert_rewrite("tests.helpers")  # before anything imports them
