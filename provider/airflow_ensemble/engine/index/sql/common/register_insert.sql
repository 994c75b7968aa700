-- `WHERE TRUE` keeps SQLite from reading ON CONFLICT as a join's condition.
INSERT INTO simulations (
    ensemble, position, id, params, digest, resources, resource_class, time_limit, priority,
    status, generation, attempt, registered_by, updated
)
SELECT
    :ensemble, :base + n, id, params, digest, resources, resource_class, time_limit, priority,
    'pending', :generation, COALESCE(
        (SELECT f.attempt FROM forgotten AS f WHERE f.ensemble = :ensemble AND f.id = stage.id), 0
    ), :batch, @now
FROM stage
WHERE TRUE
ON CONFLICT (ensemble, id) DO NOTHING
