-- Two disjoint parts, each answered from one index.
SELECT status, reason, n_empty, result_generation, COUNT(*) FROM (
    SELECT status, reason, n_empty, result_generation FROM simulations
    WHERE ensemble = :ensemble AND registered_by = :scope_batch
    UNION ALL
    SELECT status, reason, n_empty, result_generation FROM simulations
    WHERE chunk IN (SELECT c.id FROM chunks AS c WHERE c.batch = :scope_batch)
        AND registered_by <> :scope_batch
) AS parts
GROUP BY status, reason, n_empty, result_generation
