SELECT 1 WHERE to_regclass('airflow_ensemble.meta') IS NOT NULL
