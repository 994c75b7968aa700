SELECT COUNT(*) FROM simulations WHERE ensemble = :ensemble AND registered_by = :scope
