UPDATE workers SET expires = @now + lease WHERE id = :worker AND expires > @now
RETURNING ensemble, @now
