-- What a cancel took whose answer never arrived because the connection broke.
SELECT id, chunk, position FROM simulations
WHERE ensemble = :ensemble AND status = 'failed' AND reason = 'cancelled' AND updated = :time
