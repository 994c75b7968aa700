SELECT
    s.position, s.id, s.digest, s.status, s.reason, s.n_empty, s.result_generation, s.attempt,
    s.registered_by
FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.position > :after @scope
ORDER BY s.position
LIMIT :limit
