AND (
    s.registered_by = :scope_batch
    OR s.chunk IN (SELECT c.id FROM chunks AS c WHERE c.batch = :scope_batch)
)
