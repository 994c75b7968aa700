SELECT 1 FROM simulations WHERE ensemble = :ensemble AND status = 'pending' LIMIT 1
