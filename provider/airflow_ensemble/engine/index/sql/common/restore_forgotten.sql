-- What a person had forgotten stays forgotten; later attempts are those of an id that came back.
DELETE FROM stage_finished WHERE EXISTS (
    SELECT 1 FROM forgotten AS f
    WHERE f.ensemble = :ensemble AND f.id = stage_finished.id
        AND stage_finished.attempt <= f.attempt
)
