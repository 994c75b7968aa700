SELECT s.position FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.status IN ('blocked', 'pending', 'dispatched', 'running') @scope
ORDER BY s.position
@for_update
