-- What another batch or worker owns at this moment stays in the scope of its batch: theirs is the
-- verdict on it.
UPDATE simulations AS s SET registered_by = :batch
FROM stage AS t
WHERE s.ensemble = :ensemble AND s.id = t.id AND s.registered_by <> :batch
    AND s.status NOT IN ('dispatched', 'running')
