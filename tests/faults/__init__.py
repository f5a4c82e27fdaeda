"""The fault laboratory: the product as separate processes on a real Kafka, broken by seed, judged by the oracle."""
