-- Failures that the index has charged already are not charged again.
DELETE FROM stage_finished WHERE reason IS NOT NULL AND EXISTS (
    SELECT 1 FROM failed_attempts AS f
    WHERE f.ensemble = :ensemble AND f.id = stage_finished.id
        AND f.attempt = stage_finished.attempt AND f.token = stage_finished.token
)
