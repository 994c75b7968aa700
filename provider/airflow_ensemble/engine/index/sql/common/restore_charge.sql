WITH ranked AS (
    SELECT
        t.*,
        ROW_NUMBER() OVER (PARTITION BY t.id ORDER BY t.attempt DESC, t.started DESC, t.n DESC)
            AS rank,
        SUM(CASE WHEN t.kind = 'interruption' THEN 0 ELSE 1 END) OVER (PARTITION BY t.id)
            AS n_tries,
        SUM(CASE WHEN t.kind = 'interruption' THEN 1 ELSE 0 END) OVER (PARTITION BY t.id)
            AS n_interruptions,
        MAX(CASE WHEN t.kind = 'final' THEN 1 ELSE 0 END) OVER (PARTITION BY t.id) AS is_final
    FROM stage_finished AS t
    JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
    WHERE t.reason IS NOT NULL AND t.generation = s.generation
),
newest AS MATERIALIZED (SELECT * FROM ranked WHERE rank = 1)
UPDATE simulations AS s SET
    tries = s.tries + CAST(newest.n_tries AS INTEGER),
    interruptions = s.interruptions + CAST(newest.n_interruptions AS INTEGER),
    attempt = CASE WHEN s.attempt > newest.attempt THEN s.attempt ELSE newest.attempt END,
    status = CASE
        WHEN newest.is_final = 1
            OR s.tries + newest.n_tries >= e.max_attempts
            OR s.interruptions + newest.n_interruptions >= e.max_interruptions
        THEN 'failed' ELSE s.status
    END,
    reason = newest.reason, detail = newest.detail, host = newest.host, log = newest.log,
    started = newest.started, duration = newest.duration, updated = @now
FROM newest, ensembles AS e
WHERE e.number = :ensemble AND s.ensemble = :ensemble AND s.id = newest.id
    AND s.status IN ('blocked', 'pending', 'failed')
