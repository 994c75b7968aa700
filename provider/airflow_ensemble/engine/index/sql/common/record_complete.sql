-- `status || ''` is the status, but no index's: the plan begins at the given ids, whatever the
-- planner last heard of how many simulations run.
WITH given AS MATERIALIZED (@given_records)
UPDATE simulations AS s SET
    status = 'complete', token = given.token, host = given.host, started = given.started,
    duration = given.duration, log = given.log, products = given.products,
    n_empty = given.n_empty, result_generation = s.generation, result_params = NULL,
    reason = NULL, detail = '', updated = @now
FROM given
WHERE s.ensemble = :ensemble AND s.id = given.id AND s.attempt = given.attempt
    AND s.status || '' IN ('dispatched', 'running')
