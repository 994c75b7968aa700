SELECT ensemble, id, attempt, COALESCE(token, ''), COALESCE(started, @now), host, @now
FROM simulations
WHERE chunk = :chunk AND status = 'running'
ORDER BY position
@for_update
