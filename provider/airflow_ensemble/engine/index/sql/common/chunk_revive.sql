-- The attempt moves on, so that a late outcome of the failed one cannot count.
UPDATE simulations SET
    status = 'dispatched', attempt = attempt + 1, tries = 0, interruptions = 0, token = NULL,
    updated = @now
WHERE chunk = :chunk AND status = 'failed'
    AND registered_by = (SELECT c.batch FROM chunks AS c WHERE c.id = :chunk)
