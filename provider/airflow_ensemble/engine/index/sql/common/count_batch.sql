-- Two disjoint parts, each answered from one index and in its order; the caller adds up.
SELECT status, reason, n_empty, result_generation, COUNT(*) FROM simulations
WHERE ensemble = :ensemble AND registered_by = (SELECT b.scope FROM batches AS b WHERE b.id = :scope_batch)
GROUP BY registered_by, status, reason, n_empty, result_generation
UNION ALL
SELECT status, reason, n_empty, result_generation, COUNT(*) FROM simulations
WHERE chunk IN (SELECT c.id FROM chunks AS c WHERE c.batch = :scope_batch)
    AND registered_by <> (SELECT b.scope FROM batches AS b WHERE b.id = :scope_batch)
GROUP BY chunk, registered_by, status, reason, n_empty, result_generation
