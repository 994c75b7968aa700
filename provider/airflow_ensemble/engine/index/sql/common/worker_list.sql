SELECT id, host, expires FROM workers WHERE ensemble = :ensemble AND expires > @now ORDER BY id
