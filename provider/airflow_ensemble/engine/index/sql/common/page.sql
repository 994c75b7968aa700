SELECT
    s.position, s.id, s.params, s.resources, s.time_limit, s.priority, s.status, s.generation,
    s.attempt, s.tries, s.interruptions, s.batch, s.chunk, s.worker, s.reason, s.detail, s.host,
    s.log, s.started, s.duration, s.updated, s.result_generation, s.products
FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.position > :after @scope
ORDER BY s.position
LIMIT :limit
