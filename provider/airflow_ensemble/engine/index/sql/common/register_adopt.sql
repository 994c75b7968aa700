UPDATE simulations AS s SET registered_by = :batch
FROM stage AS t
WHERE s.ensemble = :ensemble AND s.id = t.id AND s.registered_by <> :batch
