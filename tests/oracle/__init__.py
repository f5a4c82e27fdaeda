"""A second, slow and obvious reading of the campaign language, to compare the engine with."""
