DELETE FROM simulations WHERE ensemble = :ensemble AND id IN (@given_ids)
