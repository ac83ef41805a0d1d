"""Benchmarks: methods by tasks by models, in tables. One folder a benchmark, one file a track."""
