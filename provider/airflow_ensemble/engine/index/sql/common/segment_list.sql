SELECT name, consumed FROM segments WHERE ensemble = :ensemble
