-- What a claim took whose answer never arrived because the connection broke.
SELECT id, params, resources, time_limit, priority, attempt, generation, tries, position
FROM simulations
WHERE worker = :worker AND status IN ('dispatched', 'running') AND status = 'dispatched'
    AND updated = :time
