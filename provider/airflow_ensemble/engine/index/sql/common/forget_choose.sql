-- In one order, so that two that change the same rows cannot block each other.
SELECT s.id, s.attempt, s.registered_by
FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.id IN (@given_ids) AND s.status NOT IN ('dispatched', 'running')
ORDER BY s.position
@for_update
