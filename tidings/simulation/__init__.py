"""A deterministic simulation: the real core and the real worker on a made-up broker, disk, group and clock."""
