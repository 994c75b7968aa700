DELETE FROM failed_attempts WHERE ensemble = :ensemble AND id IN (@given_ids)
