"""Load on the service as listeners make it. Speaks HTTP only."""
