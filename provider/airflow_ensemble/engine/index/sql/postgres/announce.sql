-- Heard at commit, once however often it is said, by whoever listens for this ensemble.
SELECT pg_notify('airflow_ensemble_' || CAST(:ensemble AS TEXT), '')
