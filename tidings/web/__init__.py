"""Web endpoints for operators: the same guard, probes and metrics for every role; members and campaigns on engines."""
