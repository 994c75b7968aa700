UPDATE simulations SET status = 'pending', worker = NULL, token = NULL, updated = @now
WHERE worker = :worker AND status IN ('dispatched', 'running') AND status = 'dispatched'
    AND id IN (@given_ids)
