-- `WHERE TRUE` keeps SQLite from reading ON CONFLICT as a join's condition.
INSERT INTO forgotten (ensemble, id, attempt)
SELECT :ensemble, given.id, given.attempt FROM (@given_attempts) AS given
WHERE TRUE
ON CONFLICT (ensemble, id) DO UPDATE SET attempt = excluded.attempt
WHERE excluded.attempt > forgotten.attempt
