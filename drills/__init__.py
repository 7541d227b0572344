"""Drills: the service is hurt on purpose, and what its clients saw is told."""
