"""How events become decisions: pure functions of one partition's log. No Kafka, no clock, no chance, no files."""
