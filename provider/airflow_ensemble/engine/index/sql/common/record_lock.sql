SELECT position FROM simulations
WHERE ensemble = :ensemble AND id IN (@given_ids)
ORDER BY position
@for_update
