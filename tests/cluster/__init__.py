"""Tests with real processes on the loopback interface, started as a user starts them."""
