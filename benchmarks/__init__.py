"""Measurements. Each writes its raw figures to benchmarks/results/ and prints a table."""
