UPDATE simulations SET
    status = 'pending', batch = NULL, chunk = NULL, token = NULL, updated = @now
WHERE chunk = :chunk AND status = 'dispatched'
