"""Every channel but e-mail's mail format: adapters (pure: a command becomes a request) and transports (they call)."""
