"""Ray Serve: who runs where. No tensor mathematics."""
