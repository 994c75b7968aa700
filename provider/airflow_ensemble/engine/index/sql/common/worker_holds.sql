SELECT id, attempt FROM simulations
WHERE worker = :worker AND worker IS NOT NULL AND status IN ('dispatched', 'running')
