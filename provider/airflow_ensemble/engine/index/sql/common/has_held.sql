-- What pull workers hold. The index is on the worker: it is small, whatever the ensemble's size.
SELECT 1 FROM simulations
WHERE ensemble = :ensemble AND worker IS NOT NULL AND status IN ('dispatched', 'running')
LIMIT 1
