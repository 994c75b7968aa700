-- What a simulation needs may change from night to night without being another simulation.
UPDATE simulations AS s SET
    resources = t.resources, resource_class = t.resource_class, time_limit = t.time_limit,
    priority = t.priority
FROM stage AS t
WHERE s.ensemble = :ensemble AND s.id = t.id AND s.status NOT IN ('dispatched', 'running')
    AND (
        s.resources <> t.resources OR s.priority <> t.priority
        OR COALESCE(s.time_limit, -1) <> COALESCE(t.time_limit, -1)
    )
