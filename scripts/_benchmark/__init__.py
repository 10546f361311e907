"""The pieces of scripts/benchmark.py."""
