"""Ensembles of simulations as ordinary Airflow DAGs, and without Airflow."""

__version__ = "0.1.0"
