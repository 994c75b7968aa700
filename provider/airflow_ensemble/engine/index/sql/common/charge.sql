-- `status || ''` is the status, but no index's: the plan begins at the given ids, whatever the
-- planner last heard of how many simulations run.
-- The decision of `simulation.has_failed_for_good`; `kind` is final, interruption or try.
WITH given AS MATERIALIZED (@given_records),
judged AS MATERIALIZED (
    SELECT
        given.*,
        s.position AS place,
        CASE WHEN given.kind = 'interruption' THEN 0 ELSE 1 END AS one_try,
        CASE WHEN given.kind = 'interruption' THEN 1 ELSE 0 END AS one_interruption,
        given.kind = 'final'
        OR (given.kind = 'interruption' AND s.interruptions + 1 >= e.max_interruptions)
        OR (given.kind = 'try' AND s.tries + 1 >= e.max_attempts) AS is_over
    FROM given
    JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = given.id
    JOIN ensembles AS e ON e.number = s.ensemble
)
UPDATE simulations AS s SET
    status = CASE
        WHEN j.is_over THEN 'failed' WHEN s.chunk IS NULL THEN 'pending' ELSE 'dispatched'
    END,
    worker = CASE WHEN j.is_over THEN s.worker END,
    token = CASE WHEN j.is_over THEN j.token END,
    tries = s.tries + j.one_try, interruptions = s.interruptions + j.one_interruption,
    reason = j.reason, detail = j.detail, host = j.host, log = j.log, started = j.started,
    duration = j.duration, updated = @now
FROM judged AS j
WHERE s.ensemble = :ensemble AND s.position = j.place AND s.attempt = j.attempt
    AND s.status || '' IN ('dispatched', 'running')
RETURNING status
