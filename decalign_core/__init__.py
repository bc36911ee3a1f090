"""DecAlign."""
