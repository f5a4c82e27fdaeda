"""A deterministic simulation of the whole engine: real core and real worker on a made-up broker, disk, group and clock."""
