-- The newest complete outcome of each simulation; it completes the row where no newer generation
-- has begun.
WITH ranked AS (
    SELECT
        t.*,
        ROW_NUMBER() OVER (PARTITION BY t.id ORDER BY t.generation DESC, t.attempt DESC, t.n)
            AS rank
    FROM stage_finished AS t
    WHERE t.reason IS NULL
),
newest AS MATERIALIZED (SELECT * FROM ranked WHERE rank = 1)
UPDATE simulations AS s SET
    status = CASE WHEN newest.generation >= s.generation THEN 'complete' ELSE s.status END,
    reason = CASE WHEN newest.generation >= s.generation THEN NULL ELSE s.reason END,
    detail = CASE WHEN newest.generation >= s.generation THEN '' ELSE s.detail END,
    token = CASE WHEN newest.generation >= s.generation THEN newest.token ELSE s.token END,
    attempt = CASE WHEN s.attempt > newest.attempt THEN s.attempt ELSE newest.attempt END,
    host = newest.host, log = newest.log, started = newest.started, duration = newest.duration,
    products = newest.products, n_empty = newest.n_empty,
    result_generation = newest.generation, result_params = NULL, updated = @now
FROM newest
WHERE s.ensemble = :ensemble AND s.id = newest.id
    AND COALESCE(s.result_generation, 0) < newest.generation
