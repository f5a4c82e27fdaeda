"""Composition and people: settings, brokers, command line, web endpoints, demo."""

VERSION = "0.1.0"  # as in pyproject.toml, which no image holds
