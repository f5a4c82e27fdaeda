"""Composition and people: settings, brokers, command line, web endpoints, demo."""
