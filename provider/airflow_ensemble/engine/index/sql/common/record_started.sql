-- `status || ''` is the status, but no index's: the plan begins at the given ids, whatever the
-- planner last heard of how many simulations run.
-- Of two executions of one attempt the later start holds the token, unless it has ended already.
WITH given AS MATERIALIZED (@given_records)
UPDATE simulations AS s SET
    status = 'running', token = given.token, host = given.host, started = given.started,
    updated = @now
FROM given
WHERE s.ensemble = :ensemble AND s.id = given.id AND s.attempt = given.attempt
    AND s.status || '' IN ('dispatched', 'running')
    AND (
        s.token IS NULL
        OR (s.token <> given.token AND COALESCE(s.started, 0) <= given.started)
    )
    AND NOT EXISTS (
        SELECT 1 FROM failed_attempts AS f
        WHERE f.ensemble = s.ensemble AND f.id = s.id AND f.attempt = s.attempt
            AND f.token = given.token
    )
