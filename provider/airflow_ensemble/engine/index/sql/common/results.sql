SELECT s.position, s.id, COALESCE(s.result_params, s.params), s.result_generation, s.products
FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.position > :after AND s.result_generation IS NOT NULL @scope
ORDER BY s.position
LIMIT :limit
