-- Results of other parameters are not this simulation's; what runs now speaks for itself, unless
-- it has completed already.
DELETE FROM stage_finished WHERE n IN (
    SELECT t.n
    FROM stage_finished AS t
    JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
    WHERE s.digest <> t.digest
        OR (
            s.status IN ('dispatched', 'running')
            AND (t.reason IS NOT NULL OR t.attempt <> s.attempt)
        )
)
