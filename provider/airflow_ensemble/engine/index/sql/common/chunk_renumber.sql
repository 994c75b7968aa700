UPDATE simulations SET
    attempt = attempt + 1, token = NULL, started = NULL, duration = NULL, updated = @now
WHERE chunk = :chunk AND status = 'dispatched'
