SELECT number FROM ensembles WHERE name = :name AND settings_hash = :settings_hash
