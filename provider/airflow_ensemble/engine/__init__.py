"""The engine: everything that runs anywhere Python runs, with no Airflow, SSH or Kubernetes."""
