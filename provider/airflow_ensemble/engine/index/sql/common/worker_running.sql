SELECT ensemble, id, attempt, COALESCE(token, ''), COALESCE(started, @now), host, @now
FROM simulations
WHERE worker = :worker AND status IN ('dispatched', 'running') AND status = 'running'
ORDER BY position
@for_update
