SELECT resource_class, COUNT(*) FROM (
    SELECT resource_class FROM simulations
    WHERE ensemble = :ensemble AND registered_by = :batch AND status = 'pending'
    @for_update
) AS ready
GROUP BY resource_class
ORDER BY resource_class
