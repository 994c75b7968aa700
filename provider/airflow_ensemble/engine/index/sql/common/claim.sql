WITH picked AS MATERIALIZED (
    SELECT position FROM simulations
    WHERE ensemble = :ensemble AND status = 'pending'
    ORDER BY tries, priority DESC, position
    LIMIT :limit
    @skip_locked
)
UPDATE simulations SET
    status = 'dispatched', attempt = attempt + 1, worker = :worker, batch = NULL, chunk = NULL,
    token = NULL, reason = NULL, detail = '', started = NULL, duration = NULL, host = '',
    log = NULL, updated = @now
WHERE ensemble = :ensemble AND position IN (SELECT position FROM picked)
RETURNING id, params, resources, time_limit, priority, attempt, generation, tries, position
