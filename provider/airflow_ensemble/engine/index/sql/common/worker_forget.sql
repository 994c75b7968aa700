DELETE FROM workers WHERE id = :worker RETURNING ensemble
