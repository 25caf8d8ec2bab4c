"""Loads the harness into pytest."""

pytest_plugins = ["conformance.plugin"]
