INSERT INTO simulations (
    ensemble, position, id, params, digest, resources, resource_class, priority, status,
    generation, attempt, registered_by, updated
)
SELECT
    :ensemble, :base + n, id, params, digest, '{}', '', 0, 'pending', generation, attempt, '', @now
FROM (
    SELECT
        id, params, digest, generation,
        MIN(n) OVER (PARTITION BY id) AS n,
        MAX(attempt) OVER (PARTITION BY id) AS attempt,
        ROW_NUMBER() OVER (PARTITION BY id ORDER BY generation DESC, attempt DESC, n) AS rank
    FROM stage_finished
) AS newest
WHERE rank = 1
ON CONFLICT (ensemble, id) DO NOTHING
