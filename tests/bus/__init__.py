"""Tests of the bus against real nats-servers."""
