SELECT s.status, s.reason, s.n_empty, s.result_generation, COUNT(*)
FROM simulations AS s
WHERE s.ensemble = :ensemble @scope
GROUP BY s.status, s.reason, s.n_empty, s.result_generation
