AND (
    s.registered_by = (SELECT b.scope FROM batches AS b WHERE b.id = :scope_batch)
    OR s.chunk IN (SELECT c.id FROM chunks AS c WHERE c.batch = :scope_batch)
)
