"""What takes how long, measured side by side: ``python -m benchmarks --help``."""
