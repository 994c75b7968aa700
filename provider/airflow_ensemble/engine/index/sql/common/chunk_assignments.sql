SELECT id, params, resources, time_limit, priority, attempt, generation
FROM simulations
WHERE chunk = :chunk AND status IN ('dispatched', 'running')
ORDER BY priority DESC, position
