UPDATE simulations AS s SET
    status = 'failed', reason = 'cancelled', detail = :detail, updated = @now
WHERE s.ensemble = :ensemble AND s.status IN ('blocked', 'pending', 'dispatched', 'running') @scope
RETURNING id, chunk, position
