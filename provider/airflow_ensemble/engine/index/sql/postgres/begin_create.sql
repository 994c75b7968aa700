-- Creators take turns: CREATE ... IF NOT EXISTS alone fails when two run at once.
SELECT pg_advisory_xact_lock(7305809172416045157);
CREATE SCHEMA IF NOT EXISTS airflow_ensemble
