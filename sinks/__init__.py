"""The outside world: ClickHouse, SMTP. A sink sees values from schemas and nothing else of ours."""
