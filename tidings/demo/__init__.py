"""The demo: one story of a shop, sent, watched, checked against a replay, and reported."""
