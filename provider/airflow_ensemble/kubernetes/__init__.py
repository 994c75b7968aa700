"""Kubernetes as plain values: what a worker's pod holds, and what its end means."""
