"""Tests of the orchestrator: its decisions in a table, and whole conversations simulated on an in-memory stream."""
