-- Definers take turns: the check of output roots spans rows that do not exist yet.
SELECT pg_advisory_xact_lock(7305809172416045158)
