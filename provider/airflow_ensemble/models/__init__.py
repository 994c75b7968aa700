"""Adapters that run real models as ensembles. Each imports its model only when it runs."""
