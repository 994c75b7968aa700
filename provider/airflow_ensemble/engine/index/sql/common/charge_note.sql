-- `status || ''` is the status, but no index's: the plan begins at the given ids, whatever the
-- planner last heard of how many simulations run.
WITH given AS MATERIALIZED (@given_records)
INSERT INTO failed_attempts (
    ensemble, id, attempt, token, generation, reason, detail, host, log, started, duration
)
SELECT
    s.ensemble, s.id, s.attempt, given.token, s.generation, given.reason, given.detail,
    given.host, given.log, given.started, given.duration
FROM given JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = given.id
WHERE s.attempt = given.attempt AND s.status || '' IN ('dispatched', 'running')
    AND (s.token IS NULL OR s.token = given.token)
ON CONFLICT DO NOTHING
RETURNING id
