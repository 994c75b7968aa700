"""Pools: how one worker spreads simulations over its CPUs, and survives whatever they do."""
