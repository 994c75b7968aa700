-- Grouped in the order of the index, so that nothing has to be sorted; the caller adds up.
SELECT s.status, s.reason, s.n_empty, s.result_generation, COUNT(*)
FROM simulations AS s
WHERE s.ensemble = :ensemble @scope
GROUP BY s.registered_by, s.status, s.reason, s.n_empty, s.result_generation
