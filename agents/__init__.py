"""Kafka glue: Faust apps and consumers that call the pure core and the sinks."""
