"""Tests of serving. A package, so that its replica ends with the last of them: see conftest.py."""
