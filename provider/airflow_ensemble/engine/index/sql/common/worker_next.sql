-- What a worker that said nothing of any start was about to start, in the order of claims.
SELECT ensemble, id, attempt, COALESCE(token, ''), COALESCE(started, @now), host, @now
FROM simulations
WHERE worker = :worker AND status IN ('dispatched', 'running') AND status = 'dispatched'
ORDER BY tries, priority DESC, position
LIMIT 1
@for_update
